"""A loaded folder: chat, continuation and scores, with stop strings, limits and mistakes."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path

import pytest
import torch

from danlu.infer.cache import Causal
from danlu.infer.model import Model, load
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import write_manifest

ANSWER = "你好，Hello world👋！"
ASK = [{"role": "user", "content": "在吗？ Anyone there? 🙂 <|im_end|>"}]


@pytest.fixture(scope="module")
def model(reciting_model: Path) -> Model:
    return load(reciting_model)


def test_chat(model: Model) -> None:
    assert model.chat(ASK) == ANSWER
    assert model.chat([*ASK, {"role": "assistant", "content": ANSWER}, *ASK], temperature=0.5, seed=1) == ANSWER
    assert model.chat(ASK, max_tokens=2) == "你好"
    assert model.chat(ASK, stop=["world", "o w"]) == "你好，Hell"


def test_streams(model: Model) -> None:
    pieces = list(model.stream_chat(ASK))
    assert pieces == ["你", "好", "，", "Hello", " ", "world", "👋", "！"]
    assert list(model.stream_chat(ASK, stop=["world👋"])) == ["你", "好", "，", "Hello", " "]
    endless = model.stream("∞", max_tokens=100)
    assert next(endless) == "∞" and model.engine.running == 1
    endless.close()
    assert model.engine.running == 0


def test_generate_takes_one_text_or_many(model: Model) -> None:
    assert model.generate("你", max_tokens=2) == "好，"
    assert model.generate(["∞", "x", "Hello", "<|im_start|>"], max_tokens=2) == ["∞∞", "..", " world", ".."]
    assert model.generate([]) == []


def test_a_cut_character_at_the_limit(model: Model) -> None:
    assert model.generate("world", max_tokens=3) == "\ufffd"
    assert model.generate("world", max_tokens=4) == "👋"


def test_seeds(model: Model) -> None:
    def hot(seed: int | None) -> str:
        return model.generate("x", temperature=8.0, max_tokens=30, seed=seed)

    assert hot(1) == hot(1) != hot(2)
    assert len({hot(None) for _ in range(3)}) > 1


def test_requests_of_many_threads_run_together(model: Model) -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(model.chat(ASK))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert answers == [ANSWER] * 8


@pytest.mark.parametrize("text", ["", "你好", "world peace 和平 🙂", "long " * 150])
def test_score_equals_the_sum_over_the_text(model: Model, text: str) -> None:
    score = model.score(text)
    ids = [model.tokenizer.eos_id, *model.tokenizer.encode(text)]
    with torch.no_grad():  # the model looks at one token only, so windows make no difference
        hidden = model.decoder(torch.tensor([ids]), torch.arange(len(ids))[None], Causal())
        logp = model.decoder.head.logits(hidden[0, :-1]).double().log_softmax(-1)
    expected = -logp.gather(1, torch.tensor(ids[1:], dtype=torch.long)[:, None]).sum().item()
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert (score.tokens, score.bytes) == (len(ids) - 1, len(text.encode()))
    if text:
        assert score.bits_per_byte == pytest.approx(expected / math.log(2) / len(text.encode()), rel=1e-5)


def test_mistakes_are_explained(model: Model, reciting_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"temprature[^$]*did you mean `temperature`"):
        model.chat(ASK, temprature=1)
    with pytest.raises(UserError, match="top_p"):
        model.generate("x", top_p=1.5)
    with pytest.raises(UserError, match="the window 256"):
        model.generate("x" * 300)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(UserError, match="no dtype 'float'"):
        load(reciting_model, dtype="float")


def test_another_tokenizer_or_template_than_in_training_is_refused(reciting_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step-000000005"
    shutil.copytree(reciting_model, folder)
    model = load(folder)
    assert model.template is not None
    trained = {"tokenizer": model.tokenizer.fingerprint, "template": model.template.fingerprint}
    write_manifest(folder, {"fingerprints": trained})
    assert load(folder).chat(ASK) == ANSWER
    write_manifest(folder, {"fingerprints": {**trained, "template": "another"}})
    with pytest.raises(UserError, match="the template in this folder is not the one"):
        load(folder)


def test_a_model_without_a_template_only_continues(reciting_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(reciting_model, bare)
    (bare / "chat_template.jinja").unlink()
    config = (bare / "tokenizer_config.json").read_text("utf-8")
    (bare / "tokenizer_config.json").write_text(config.replace('"chat_template"', '"former_template"'), "utf-8")
    model = load(bare)
    assert model.template is None and model.generate("你", max_tokens=1) == "好"
    with pytest.raises(UserError, match="no chat template"):
        model.chat(ASK)


def test_weights_in_fewer_bits(reciting_model: Path) -> None:
    for form in ("int8", "int4", "nf4"):
        small = load(reciting_model, quantize=form)
        assert small.chat(ASK) == ANSWER
        together, alone = small.generate(["学而", "a b"], max_tokens=6), small.generate("a b", max_tokens=6)
        assert together[1] == alone
    with pytest.raises(UserError, match="there is no form 'int3'"):
        load(reciting_model, quantize="int3")  # type: ignore[arg-type]


def test_half_precision(reciting_model: Path) -> None:
    assert load(reciting_model, dtype="bf16").chat(ASK) == ANSWER
