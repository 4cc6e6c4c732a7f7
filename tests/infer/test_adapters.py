"""Adapters in the engine, the server, the chat and the export: chosen by request, merged with a score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from typer.testing import CliRunner

from danlu.cli import app
from danlu.evaluate.agreement import InEngine, agreement
from danlu.infer.chat import chat
from danlu.infer.engine import Engine
from danlu.infer.model import Model, load
from danlu.infer.settings import ChatSettings, SamplingSettings
from danlu.infer.voices import told_apart
from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape, attach, trained
from danlu.model.adapter_folder import Base, write_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.open import open_decoder
from danlu.model.parts import initialise
from danlu.recipe.export import export_model
from danlu.serve.app import create_app
from danlu.serve.settings import ServeSettings
from danlu.tokens.tokenizer import Tokenizer

SHAPES = {
    "poet": AdapterShape(rank=4, alpha=8),
    "law": AdapterShape(rank=2, alpha=8, targets=("q_proj", "up_proj")),
    "dora": AdapterShape(rank=3, alpha=6, magnitudes=True),
}
PROMPT, COUNT = "你好 hello", 12


@pytest.fixture(scope="module")
def folders(reciting_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random base with a chat template, and adapters over it."""
    root = tmp_path_factory.mktemp("adapters")
    tokenizer = Tokenizer.load(reciting_model)
    shape = load_decoder(reciting_model).settings
    small = {"hidden_size": 32, "heads": 4, "kv_heads": 2, "mlp_size": 48, "layers": 2, "head_dim": None}
    decoder = Decoder.empty(shape.model_copy(update={**small, "init_std": 0.2}))
    initialise(decoder, 1)
    save_decoder(decoder, root / "base", tokenizer)
    for seed, (name, kind) in enumerate(SHAPES.items()):
        own = load_decoder(root / "base")
        attach(own, kind, seed)
        with torch.no_grad():
            for _, _, adapter in trained(own):
                for pair in adapter.of():
                    pair.b.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
        (root / name).mkdir()
        write_adapter(own, root / name, kind, Base.of(root / "base"))
    tokenizer.save(root / "poet")
    return {name: root / name for name in ("base", *SHAPES)}


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> Model:
    return load(folders["base"], adapters=[folders[name] for name in SHAPES])


def ids(model: Model, adapter: str | None, text: str = PROMPT) -> list[int]:
    number = None if adapter is None else model.voices[adapter]
    engine, prompt = model.engine, model.raw_prompt(text)
    request = engine.submit(prompt, SamplingSettings(max_tokens=COUNT), adapter=number)
    engine.finish([request])
    return request.tokens


def test_each_request_takes_its_own(model: Model, folders: dict[str, Path]) -> None:
    alone = {name: ids(load(folders[name]), None) for name in folders}
    assert len({tuple(found) for found in alone.values()}) == 4, "they answer differently"
    assert {name: ids(model, name) for name in folders} == alone
    assert ids(model, None) == alone["base"]
    names = ["law", "base", "poet", "dora", "poet", "base"]
    prompt, sampling = model.raw_prompt(PROMPT), SamplingSettings(max_tokens=COUNT)
    together = [model.engine.submit(prompt, sampling, adapter=model.voices[name]) for name in names]
    model.engine.finish(together)
    assert [request.tokens for request in together] == [alone[name] for name in names]


def test_scores_too(model: Model, folders: dict[str, Path]) -> None:
    pairs = [(model.raw_prompt("你好"), model.raw_prompt("world")), (model.raw_prompt("a"), model.raw_prompt("b"))]
    for name in folders:
        other = load(folders[name]).engine.score(pairs)
        for mine, theirs in zip(model.engine.score(pairs, adapter=model.voices[name]), other, strict=True):
            assert mine.logp == pytest.approx(theirs.logp, rel=1e-4)


def test_an_adapters_folder_brings_its_base(folders: dict[str, Path]) -> None:
    poet = load(folders["poet"], adapters={"judge": folders["law"]})
    assert list(poet.voices) == ["poet", "judge", "base"] and poet.name == "poet"
    assert ids(poet, "base") == ids(load(folders["base"]), None)
    assert ids(poet, None) == ids(load(folders["poet"]), "poet") == ids(poet, "poet")


def test_folders_of_one_name_are_told_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(folders["base"], tmp_path / "runs" / "one" / "sft")
    poet = shutil.copytree(folders["poet"], tmp_path / "runs" / "two" / "sft")
    law = shutil.copytree(folders["law"], tmp_path / "three" / "two" / "sft")
    both = load(base, adapters=[poet])
    assert list(both.voices) == ["one/sft", "two/sft"] and both.name == "one/sft"
    assert ids(both, "two/sft") == ids(load(folders["poet"]), None) != ids(both, None)
    assert list(load(base, adapters=[poet, law, folders["dora"]]).voices) == [
        "one/sft", "runs/two/sft", "three/two/sft", "dora",
    ]  # fmt: skip
    named = load(base, adapters={"sft": poet})
    assert list(named.voices) == ["one/sft", "sft"] and ids(named, "sft") == ids(both, "two/sft")
    config = poet / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    assert list(load(poet).voices) == ["sft", "one/sft"]
    for name in ("sft", "one/sft"):
        with pytest.raises(UserError, match=f"{name} is what another voice is called"):
            create_app(load(base, adapters={"sft": poet, "one/sft": law}), ServeSettings(name=name))


FOLDERS = st.lists(st.sampled_from(["a", "b", "诗"]), min_size=1, max_size=4).map(lambda parts: Path("/", *parts))


@given(st.lists(FOLDERS, min_size=1, max_size=6, unique=True), st.sets(st.sampled_from(["a", "b/a", "诗"])))
def test_every_folder_has_a_name_of_its_own(paths: list[Path], taken: set[str]) -> None:
    names = told_apart(paths, taken)
    assert len(set(names)) == len(names) and not taken & set(names)
    for path, name in zip(paths, names, strict=True):
        shorter = name.partition("/")[2] if name != str(path) else str(path)[1:]
        assert str(path).endswith(name)
        assert (
            not shorter
            or shorter in taken
            or any(f"{other}".endswith(f"/{shorter}") for other in paths if other != path)
        )


def test_the_command_talks_with_an_adapter_in_a_folder_of_the_bases_name(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    base = shutil.copytree(folders["base"], tmp_path / "one" / "sft")
    poet = shutil.copytree(folders["poet"], tmp_path / "two" / "sft")
    given = ["chat", str(base), f"adapter={poet}", "raw=true", "sampling.temperature=0", f"sampling.max_tokens={COUNT}"]
    said = CliRunner().invoke(app, given, input=f"{PROMPT}\n")
    assert said.exit_code == 0 and load(folders["poet"]).generate(PROMPT, max_tokens=COUNT) in said.output


def test_the_server_offers_them_by_name(model: Model) -> None:
    with TestClient(create_app(model, ServeSettings(name="house")), base_url="http://localhost:8000") as client:
        listed = [one["id"] for one in client.get("/v1/models").json()["data"]]
        assert listed == ["house", *SHAPES]
        for name in listed:
            asked = {"model": name, "prompt": PROMPT, "max_tokens": COUNT, "temperature": 0}
            answer = client.post("/v1/completions", json=asked).json()
            wanted = model.generate(PROMPT, adapter="base" if name == "house" else name, max_tokens=COUNT)
            assert (answer["model"], answer["choices"][0]["text"]) == (name, wanted)
        missing = client.post("/v1/completions", json={"model": "nobody", "prompt": "x"})
        assert missing.status_code == 404 and "'law'" in missing.json()["error"]["message"]


def test_the_terminal_talks_with_one(folders: dict[str, Path]) -> None:
    shown: list[str] = []
    lines = iter([PROMPT])

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    settings = ChatSettings.model_validate(
        {"raw": True, "adapter": folders["law"], "sampling": {"temperature": 0.0, "max_tokens": COUNT}}
    )
    chat(load(folders["base"], adapters={str(folders["law"]): folders["law"]}), settings, read, shown.append)
    assert f"Talking with {folders['law']}." in shown[0]
    assert load(folders["law"]).generate(PROMPT, max_tokens=COUNT) in "".join(shown)


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_export_merges_and_says_how_well(folders: dict[str, Path], tmp_path: Path, dtype: str) -> None:
    export_model(folders["dora"], tmp_path / "one", dtype)
    export_model(folders["base"], tmp_path / "two", dtype, adapter=folders["dora"])
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1] and not (tmp_path / "one" / "adapter_config.json").exists()
    score = json.loads((tmp_path / "one" / "agreement.json").read_text())
    assert score["made"] == f"adapter over full weights merged, {dtype}" and score["prompts"] == 16
    if dtype == "float32":
        assert score["kl"] < 1e-6 and score["top1"] == score["greedy"] == 1.0
        assert ids(load(tmp_path / "one"), None) == ids(load(folders["dora"]), None)
    else:
        assert 1e-9 < score["kl"] < 0.05 and score["top1"] > 0.8


def test_a_merge_from_4_bits_is_said_and_measured(folders: dict[str, Path], tmp_path: Path) -> None:
    own = open_decoder(folders["base"], quantisation="nf4")
    shape = AdapterShape(rank=4, alpha=8, over="nf4")
    attach(own, shape, 0)
    with torch.no_grad():
        for _, _, adapter in trained(own):
            for pair in adapter.of():
                pair.b.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    write_adapter(own, tmp_path, shape, Base.of(folders["base"]))
    export_model(tmp_path, tmp_path / "as_trained", "float32")
    export_model(tmp_path, tmp_path / "original", "float32", onto_original=True, accept=True)
    scores = [json.loads((tmp_path / name / "agreement.json").read_text()) for name in ("as_trained", "original")]
    assert [score["made"] for score in scores] == [
        "adapter over nf4 weights merged, float32",
        "adapter over nf4 weights merged into the original, float32",
    ]
    assert scores[0]["kl"] < 1e-6 and scores[0]["top1"] == 1.0
    assert scores[1]["kl"] > 1e-4, "the base is not what its 4 bits are"
    merged, was = load_decoder(tmp_path / "as_trained"), own.blocks[0].qkv.whole_weight(torch.float32)
    a_RI, b_OR = own.blocks[0].qkv.adapters.low_rank(own.blocks[0].qkv)
    assert torch.allclose(merged.blocks[0].qkv.weight, was + b_OR @ a_RI, atol=1e-6)

    opened = load(tmp_path)
    assert opened.quantised == "nf4" and ids(opened, None) == ids(load(tmp_path / "as_trained"), None)
    assert load(folders["base"], adapters=[tmp_path]).quantised == "nf4", "the one adapter was trained over it"
    assert load(folders["base"], adapters=[tmp_path, folders["law"]]).quantised is None
    assert load(tmp_path, quantize="int8").quantised == "int8"
    whole = load(tmp_path, quantize="full")
    assert whole.quantised is None and whole.decoder.blocks[0].qkv.quantised is None


def test_a_base_that_has_changed_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["base"], tmp_path / "base")
    own, shape = load_decoder(tmp_path / "base"), AdapterShape(rank=2)
    attach(own, shape, 0)
    (tmp_path / "adapter").mkdir()
    write_adapter(own, tmp_path / "adapter", shape, Base.of(tmp_path / "base"))
    shutil.rmtree(tmp_path / "base")
    initialise(own := Decoder.empty(own.settings), 2)
    save_decoder(own, tmp_path / "base", Tokenizer.load(folders["base"]))
    with pytest.raises(UserError, match="put its own base back"):
        load(tmp_path / "adapter")


def test_agreement_sees_another_model(folders: dict[str, Path]) -> None:
    one, other = (InEngine(Engine(load_decoder(folders["base"]))) for _ in range(2))
    prompts = [[1, 2, 3, 4], [9, 8, 7]]
    same = agreement(one, other, prompts)
    assert (same.kl, same.top1, same.greedy, same.greedy_tokens, same.tokens) == (0.0, 1.0, 1.0, 1.0, 7)
    with torch.no_grad():
        other.engine.decoder.blocks[0].qkv.weight += 0.5
    apart = agreement(one, other, prompts)
    p, q = (form.logp(prompts[0]).double() for form in (one, other))
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")
    kl += torch.nn.functional.kl_div(
        *(form.logp(prompts[1]).double() for form in (other, one)), log_target=True, reduction="sum"
    )
    assert apart.kl == pytest.approx(kl.item() / 7, rel=1e-6)
    assert not apart.same_model and apart.greedy < 1.0


def test_rounding_takes_no_divergence_below_0(folders: dict[str, Path]) -> None:
    form = InEngine(Engine(load_decoder(folders["base"])))

    class Rounded(InEngine):
        def logp(self, ids: Sequence[int]) -> torch.Tensor:
            return super().logp(ids) + 1e-6  # as far from normalised as float32 may be over a large vocabulary

    assert 0 <= agreement(form, Rounded(form.engine), [[1, 2, 3, 4]]).kl < 1e-12


def test_an_export_that_is_another_model_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.evaluate.agreement.LEAST_TOP1", 1.1)
    monkeypatch.setattr("danlu.evaluate.agreement.MOST_KL", -1.0)
    with pytest.raises(UserError, match="another model than this") as refused:
        export_model(folders["poet"], tmp_path / "out", "bf16")
    assert refused.value.where == str(folders["poet"]) and "--dtype float32" in str(refused.value)
    stored = shutil.copytree(folders["poet"], tmp_path / "qlora") / "adapter_model.safetensors"
    with safe_open(stored, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(stored), stored, metadata | {"over": "nf4"})
    with pytest.raises(UserError, match=r"qlora: .*into the original, bf16 is another[\s\S]*leave --onto-original out"):
        export_model(stored.parent, tmp_path / "out", "bf16", onto_original=True)
    assert not (tmp_path / "out").exists()
    export_model(folders["poet"], tmp_path / "out", "bf16", accept=True)
    assert (tmp_path / "out" / "agreement.json").is_file()


def test_mistakes_are_explained(model: Model, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name one of base, poet, law, dora"):
        model.generate("x", adapter="nobody")
    with pytest.raises(UserError, match="not an adapter"):
        load(folders["base"], adapters={"twin": folders["base"]})
    with pytest.raises(UserError, match="--onto-original: there is no adapter here to be merged"):
        export_model(folders["base"], tmp_path / "out", "bf16", onto_original=True)
    with pytest.raises(UserError, match="law is named twice"):
        load(folders["base"], adapters=[folders["law"], folders["law"]])
    config = folders["law"] / "adapter_config.json"
    moved = tmp_path / "law"
    moved.mkdir()
    for file in folders["law"].iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    stated = json.loads(config.read_text())
    (moved / "adapter_config.json").write_text(json.dumps(stated | {"base_model_name_or_path": "gone"}))
    with pytest.raises(UserError, match=r"base gone is not a folder here[\s\S]*adapter=ADAPTER"):
        load(moved)
    (moved / "adapter_config.json").write_text(json.dumps(stated | {"bias": "all"}))
    with pytest.raises(UserError, match="bias: all is not supported"):
        load(moved)
    (moved / "adapter_config.json").write_text(json.dumps(stated))
    (moved / "adapter_model.safetensors").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="a pickle under the name of safetensors"):
        load(moved)
    (moved / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match="damaged or cut short"):
        load(moved)
    (moved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapter_model.safetensors here"):
        load(moved)
