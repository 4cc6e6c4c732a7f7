"""Exports: what others open says the same, what they would read otherwise is refused, nothing half-written stays."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from danlu.cli import app
from danlu.infer.model import load
from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape, attach, trained
from danlu.model.adapter_folder import Base, write_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.gguf.words import words_of
from danlu.model.parts import unfused_state
from danlu.model.settings import in_family, parameters
from danlu.recipe.export import export_model
from danlu.recipe.forms import compare_forms
from danlu.recipe.prompts import prompts_for
from danlu.tokens.ollama import Turns, modelfile
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

from .exported import SHAPES, train_words, write_model

TEXT = "秋天的早晨, it's 12345！ and 空格  x"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("words")
    return {kind: train_words(root / kind, kind) for kind in ("byte_bpe", "sentencepiece")}


@pytest.fixture(scope="module")
def folders(words: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    kinds = {shape: "byte_bpe" if shape.startswith("qwen") else "sentencepiece" for shape in SHAPES}
    return {shape: write_model(root / shape, shape, words[kind]) for shape, kind in kinds.items()}


def unsplit(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary, with merges across words."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return Tokenizer(backend, tokenizer.config, tokenizer.chat_template)


@pytest.mark.parametrize("shape", ["qwen2", "mistral", "baichuan 7b"])
def test_transformers_reads_the_gguf_file(shape: str, folders: dict[str, Path], tmp_path: Path) -> None:
    export_model(folders[shape], tmp_path / "out", "bf16", gguf="f16")
    score = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert score["made"] == "gguf f16" and score["kl"] < 1e-4 and score["prompts"] == 16
    file = next((tmp_path / "out").glob("*.gguf"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file=file.name, dtype=torch.float32).eval()
    loaded = theirs.state_dict()
    ours = load_decoder(folders[shape])
    ours.settings = in_family(ours.settings, "llama") if "baichuan" in shape else ours.settings
    for name, value in unfused_state(ours).items():
        assert torch.equal(loaded[name], value.half().float() if value.ndim == 2 else value), name


@pytest.mark.parametrize("form", ["f16", "bf16", "q8_0"])
def test_what_a_file_says_of_itself(form: str, folders: dict[str, Path], tmp_path: Path) -> None:
    export_model(folders["mistral"], tmp_path / "out", "bf16", gguf=form)
    read = gguf.GGUFReader(next((tmp_path / "out").glob("*.gguf")))
    said = {name: field.contents() for name, field in read.fields.items()}
    tokenizer = Tokenizer.load(folders["mistral"])
    assert said["general.architecture"] == "llama" and said["llama.attention.head_count_kv"] == 2
    assert said["llama.context_length"] == 256, "llama.cpp knows no window in this form, so no more than one fits"
    assert said["tokenizer.ggml.model"] == "llama" and said["tokenizer.chat_template"] == tokenizer.chat_template
    assert said["tokenizer.ggml.eos_token_id"] == tokenizer.eos_id and not said["tokenizer.ggml.add_bos_token"]
    types = said["tokenizer.ggml.token_type"]
    assert types[tokenizer.special["<|im_end|>"]] == 3 and types[tokenizer.encode("\x01")[0]] == 6
    kinds = {tensor.tensor_type.name for tensor in read.tensors if len(tensor.shape) == 2}
    assert kinds == {form.upper()}
    assert {tensor.tensor_type.name for tensor in read.tensors if len(tensor.shape) == 1} == {"F32"}


def test_llama3_frequencies_lie_beside(folders: dict[str, Path], tmp_path: Path) -> None:
    export_model(folders["llama"], tmp_path / "out", "bf16", gguf="bf16")
    read = gguf.GGUFReader(next((tmp_path / "out").glob("*.gguf")))
    factors = next(tensor.data for tensor in read.tensors if tensor.name == "rope_freqs.weight")
    assert factors[0] == 1 and factors[-1] == 8 and np.all(np.diff(factors) >= 0)


def test_shards_open_in_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    export_model(folders["qwen3"], tmp_path / "out", "float32", shard_bytes=150_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    score = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert score["top1"] == score["greedy"] == 1.0 and score["kl"] < 1e-9
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "out").encode(TEXT, add_special_tokens=False)
    ours = load(folders["qwen3"])
    assert ids == ours.tokenizer.encode(TEXT)
    scored = ours.engine.score([(ids[:1], ids[1:])])[0].logps
    with torch.no_grad():
        logp_TV = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert scored == pytest.approx([float(logp_TV[at, token]) for at, token in enumerate(ids[1:])], abs=1e-4)


def test_a_tokenizer_that_others_split_otherwise_is_refused(
    words: dict[str, Tokenizer], folders: dict[str, Path], tmp_path: Path
) -> None:
    whole = unsplit(words["byte_bpe"])
    save_decoder(load_decoder(folders["qwen2"]), tmp_path / "model", whole)
    with pytest.raises(UserError, match=r"Qwen2Tokenizer reads .* as other tokens") as told:
        export_model(tmp_path / "model", tmp_path / "out", "bf16")
    assert "--family" in str(told.value)
    with pytest.raises(UserError, match=r"no pattern at all, for which llama.cpp has no name"):
        export_model(tmp_path / "model", tmp_path / "out", "bf16", gguf="f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"], "nothing is left"
    export_model(tmp_path / "model", tmp_path / "insisted", "bf16", accept=True)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "insisted")
    assert theirs.encode(TEXT, add_special_tokens=False) != whole.encode(TEXT), "so it was right to refuse"
    save_decoder(load_decoder(folders["qwen3"]), tmp_path / "other", whole)
    export_model(tmp_path / "other", tmp_path / "fine", "bf16")


def test_merges_that_are_not_sentencepieces_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["mistral"], tmp_path / "model")
    state = json.loads((folder / "tokenizer.json").read_text())
    del state["model"]["merges"][5]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="otherwise than SentencePiece's scores"):
        export_model(folder, tmp_path / "out", "bf16", gguf="f16")


def test_scores_are_in_sentencepieces_order(tmp_path: Path) -> None:
    train_words(tmp_path / "sp", "sentencepiece")
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp" / "tokenizer.model"))
    made = words_of(Tokenizer.load(tmp_path / "sp"), spm.vocab_size())
    merged = [id for id in range(spm.vocab_size()) if len(spm.id_to_piece(id)) > 1 and made.types[id] == 1]
    assert merged and sorted(merged, key=lambda id: -spm.get_score(id)) == sorted(
        merged, key=lambda id: -made.scores[id]
    )


@pytest.mark.parametrize(
    ("shape", "change", "said"),
    [
        ("llama", {"activation": "gelu"}, "a gate of gelu"),
        ("baichuan 13b", {"layers": 2}, "ALiBi in 2 layers"),
        ("qwen2", {"rope_scaling": SHAPES["llama"]["rope_scaling"]}, "llama3's scaling"),
    ],
)
def test_what_llama_cpp_does_not_compute(
    shape: str, change: dict[str, Any], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = type(load_decoder(folders[shape]).settings).model_validate(
        load_decoder(folders[shape]).settings.model_dump(exclude={"from_folder"}) | change
    )
    save_decoder(Decoder.empty(settings).requires_grad_(False), tmp_path / "model", Tokenizer.load(folders[shape]))
    with pytest.raises(UserError, match=said):
        export_model(tmp_path / "model", tmp_path / "out", "bf16", gguf="q8_0")
    assert not (tmp_path / "out").exists()


def fails_as_numpy_does(*_: object) -> None:
    raise OSError("4096 requested and 0 written")


def test_mistakes_leave_nothing(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    decoder = load_decoder(folders["qwen2"])
    decoder.blocks[0].o.weight.data[0, 0] = 1e6
    save_decoder(decoder, tmp_path / "large", Tokenizer.load(folders["qwen2"]))
    with pytest.raises(UserError, match=r"layers.0.o.weight has values beyond 65504"):
        export_model(tmp_path / "large", out, "bf16", gguf="f16")
    with pytest.raises(UserError, match=r"not finite in fp16: model\.layers\.0\.self_attn\.o_proj\.weight"):
        export_model(tmp_path / "large", out, "fp16")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="no texts here"):
        export_model(folders["qwen2"], out, "bf16", prompts=tmp_path / "empty.txt")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        for form in (None, "f16"):
            with pytest.raises(UserError, match=r"needs [\d.]+[kMG]B and 100kB are free"):
                export_model(folders["qwen2"], out, "bf16", gguf=form)
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_tensor_data", fails_as_numpy_does)
        with pytest.raises(UserError, match="the disk is full"):
            export_model(folders["qwen2"], out, "bf16", gguf="f16")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gguf", None)
        with pytest.raises(UserError, match="danlu\\[gguf\\]"):
            export_model(folders["qwen2"], out, "bf16", gguf="f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "large"]


def test_conversations_are_asked_up_to_their_last_answer(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, file = Tokenizer.load(folders["qwen2"]), tmp_path / "rows.jsonl"
    talk = [("system", "简短。"), ("user", "你好"), ("assistant", "Hi！"), ("user", "2+2?"), ("assistant", "4")]
    messages = [{"role": role, "content": text} for role, text in talk]
    rows: list[Any] = [
        {"kind": "conversation", "messages": messages, "source": "a", "meta": {}},
        {"messages": messages[:2]},
        {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "Hi！"}]},
        {"prompt": "秋天"},
        {"messages": messages[2:3]},
        {"number": 5},
        {"text": ""},
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    template = Template(tokenizer)
    asked = [template.prompt(messages[:4]), template.prompt(messages[:2]), template.prompt(messages[1:2])]
    assert prompts_for(folders["qwen2"], tokenizer, 512, file) == [*asked, tokenizer.encode("秋天")]
    said = capsys.readouterr().err
    assert "1 rows skipped, a conversation in which nothing is asked: " in said and f"{file}:5" in said
    assert "1 rows skipped, unknown schema: " in said and "1 rows skipped, empty: " in said
    scored = prompts_for(folders["qwen2"], tokenizer, 512, file, answers=True)
    assert tokenizer.decode(scored[0], skip_special=False) == template.render(messages)
    assert len(scored) == 3 and "a conversation without an answer" in capsys.readouterr().err
    export_model(folders["qwen2"], tmp_path / "out", "bf16", prompts=file)
    assert json.loads((tmp_path / "out" / "agreement.json").read_text())["prompts"] == 4


def test_an_adapter_is_merged_into_its_own_base_only(folders: dict[str, Path], tmp_path: Path) -> None:
    decoder, base = load_decoder(folders["qwen2"]), Base.of(folders["qwen2"])
    attach(decoder, AdapterShape(rank=4), 0)
    with torch.no_grad():
        for _, _, adapter in trained(decoder):
            for pair in adapter.of():
                pair.b.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    (tmp_path / "adapter").mkdir()
    write_adapter(decoder, tmp_path / "adapter", AdapterShape(rank=4), base)
    export_model(tmp_path / "adapter", tmp_path / "out", "bf16", gguf="f16")
    score = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert score["made"] == "adapter over full weights merged, gguf f16" and score["kl"] < 1e-4
    tuned = load(tmp_path / "adapter").score(TEXT).nats
    assert abs(tuned - load(folders["qwen2"]).score(TEXT).nats) > 0.1, "the adapter does something"
    other = load_decoder(folders["qwen2"])
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.01
    save_decoder(other, tmp_path / "other", Tokenizer.load(folders["qwen2"]))
    with pytest.raises(UserError, match="trained on other weights"):
        export_model(tmp_path / "other", tmp_path / "no", "bf16", gguf="f16", adapter=tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "other", "out"]


@pytest.mark.parametrize("name", ["chatml", "llama2", "alpaca", "human", "baichuan", "baichuan2", "llama3"])
def test_ollama_says_what_the_template_says(name: str, words: dict[str, Tokenizer]) -> None:
    backend = tokenizers.Tokenizer.from_str(words["byte_bpe"].backend.to_str())
    more = ["<s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"]
    backend.add_special_tokens([*more, *(f"<reserved_{number}>" for number in (102, 103, 106, 107))])
    template = Template(Tokenizer(backend, {**words["byte_bpe"].config, "bos_token": "<s>"}), choice=name)
    turns = Turns.of(template)
    assert turns is not None
    talk = [("system", "规则 {{ x }}"), ("user", "你好"), ("assistant", "Hello 👋"), ("user", "再见")]
    messages = [{"role": role, "content": text} for role, text in talk]
    for some in (messages[1:2], messages[1:], messages[:2], messages):
        assert turns.say(some) == template.render(some, generation=True)
    file = modelfile(template, "m.gguf", 4096)
    assert file.startswith('FROM ./m.gguf\nTEMPLATE """{{ $asked := false }}') and "num_ctx 4096" in file
    assert f'PARAMETER stop "{template.stops[0]}"' in file


def test_a_template_that_does_more_is_left_to_llama_cpp(words: dict[str, Tokenizer]) -> None:
    counting = "{% for m in messages %}{{ loop.index }}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    template = Template(words["byte_bpe"].with_chat_template(counting))
    assert Turns.of(template) is None
    assert "TEMPLATE" not in modelfile(template, "m.gguf", 4096)


def test_backends_of_both_kinds_are_told_apart(words: dict[str, Tokenizer]) -> None:
    byte = words_of(words["byte_bpe"], words["byte_bpe"].vocab_size + 3)
    assert (
        (byte.kind, byte.splitting) == ("gpt2", "qwen2") and byte.tokens[-1].startswith("[PAD") and byte.types[-1] == 5
    )
    assert words_of(words["sentencepiece"], words["sentencepiece"].vocab_size).kind == "llama"


def test_forms_are_compared_in_one_table(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text(f"{TEXT}\n今天的会议改到下午三点。\nThe library closes at nine.\n")
    rows = compare_forms(folders["qwen3"], prompts=tmp_path / "texts.txt", out=tmp_path / "forms.json")
    assert [row.form for row in rows] == ["float32", "bf16", "int8", "int4"]
    assert json.loads((tmp_path / "forms.json").read_text())["rows"][3]["form"] == "int4"
    exact, half, eight, four = rows
    assert exact.memory == 2 * half.memory == 4 * parameters(load_decoder(folders["qwen3"]).settings)
    assert half.memory > eight.memory > four.memory
    assert exact.kl == 0 and exact.top1 == exact.greedy == 1
    assert 0 < half.kl < four.kl and eight.kl < four.kl
    texts = [text for text in (tmp_path / "texts.txt").read_text().splitlines() if text]
    scores = load(folders["qwen3"]).scores(texts)
    wanted = sum(score.nats for score in scores) / math.log(2) / sum(score.bytes for score in scores)
    assert exact.bits_per_byte == pytest.approx(wanted, rel=1e-5)
    shown = capsys.readouterr().out
    assert all(row.speed > 0 and row.form in shown for row in rows)
    with pytest.raises(UserError, match="nothing"):
        compare_forms(folders["qwen3"], ["bf16"])
    with pytest.raises(UserError, match="no form 'int3'"):
        compare_forms(folders["qwen3"], ["bf16", "int3"])


def test_the_command_line(folders: dict[str, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["export", str(folders["qwen2"]), str(tmp_path / "out"), "--gguf", "bf16"])
    assert run.exit_code == 0, run.output
    assert "gguf bf16, read by" in run.output and "top-1" in run.output
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == ["", ".gguf", ".json"]
    both = ["export", str(folders["qwen2"]), str(tmp_path / "two"), "--gguf", "bf16", "--dtype", "bf16"]
    assert "leave one of them out" in str(CliRunner().invoke(app, both).exception)
