"""What speaks against a recipe's training is told before any work, by `run` and by `doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings, RopeScaling
from danlu.recipe.doctor import examine
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.recipe.starts import starting_shape
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.train import train_tokenizer

SHAPE = {"vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 64}
FEW = {"batch": 4, "steps": 2, "learning_rate": 1e-3}
TALK = [{"role": "user", "content": "1 + 1 等于几？"}, {"role": "assistant", "content": "等于 2，two 👨‍👩‍👧。"}]

TEXT = "等于几 two plus two 一加一等于二，一加二等于三。 Which is how one learns to count, and no more than that. " * 9


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model with its tokenizer, conversations and pairs."""
    words = train_tokenizer(TokenizerTrainSettings(vocab_size=300), iter([TEXT]), tmp_path / "words")
    decoder = Decoder.empty(ModelSettings(**SHAPE, max_positions=128))
    initialise(decoder, 1)
    save_decoder(decoder, tmp_path / "base", words)
    pair = {"prompt": TALK[0]["content"], "chosen": "2", "rejected": "三"}
    for name, row in (("talks", {"messages": TALK}), ("pairs", pair)):
        rows = [json.dumps({**row, "id": number}, ensure_ascii=False) for number in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), "utf-8")
    return tmp_path


def recipe(place: Path, sft: dict[str, Any] | None = None, dpo: dict[str, Any] | None = None, **more: Any) -> Recipe:
    """SFT, then DPO on its weights; `sft` and `dpo` go before their training settings, `length` to their data."""
    stages = {}
    for name, source, given in (("sft", "talks", sft or {}), ("dpo", "pairs", dpo or {})):
        train = {**FEW, **given}
        data = {"sources": [{"path": f"{source}.jsonl"}], "length": train.pop("length", 64), "held_out": 0}
        stages[name] = {"data": data, "train": train}
    named = {"name": "a", "out": str(place / "out"), "data": str(place), "tokenizer": {"path": str(place / "base")}}
    return check(Recipe, {**named, "model": {"from": str(place / "base")}, **stages, **more})


def refused(asked: Recipe, capsys: pytest.CaptureFixture[str]) -> str:
    """What `run` and `doctor` alike say before either has done anything."""
    with pytest.raises(UserError) as told:
        run_recipe(asked)
    capsys.readouterr()
    assert not examine(asked)
    assert str(told.value).splitlines()[0] in capsys.readouterr().out
    assert not list((asked.out).glob("*")), "nothing was begun"
    return str(told.value)


def test_doctor_examines_stages_whose_weights_are_not_there_yet(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = recipe(place)
    assert starting_shape(asked, "dpo") == starting_shape(asked, "sft")
    assert examine(asked), capsys.readouterr().out
    said = capsys.readouterr().out
    assert "sft, heaviest batch" in said and "dpo, heaviest batch" in said
    assert "two processes, sharded, float32" in said and "float16" not in said
    assert examine(recipe(place, dpo={"precision": "fp16"}, language="zh").model_copy(update={"sft": None}))
    said = capsys.readouterr().out
    assert all(words in said for words in ("dpo：CPU 上一步所占", "两个进程，分片，float16", "dpo，最重的一批", "激活"))
    assert "heaviest" not in said and "activations" not in said


def test_weights_that_are_cut_missing_or_of_another_shape(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "base" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "model.safetensors: damaged or cut short" in refused(recipe(place), capsys)
    file.write_bytes(whole)
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1.mlp.down" not in name}, file)
    assert "weights missing: 1 (model.layers.1.mlp.down_proj.weight)" in refused(recipe(place), capsys)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"][:-1].clone()}, file)
    assert "wrong shapes: 1 (model.norm.weight is [31] and not [32])" in refused(recipe(place), capsys)
    file.unlink()
    assert "no model.safetensors here" in refused(recipe(place), capsys)


def test_texts_beyond_what_the_model_is_meant_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(recipe(place, sft={"length": 128}, dpo={"length": 129}), capsys)
    assert said.startswith("dpo.data.length: texts of 129 tokens, and the model to start from is meant for 128")


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"type": "linear", "factor": 2.0}, 256),
        ({"type": "dynamic", "factor": 2.0}, 128),
        ({"type": "llama3", "factor": 8.0, "original_max_positions": 64}, 128),
        ({"type": "yarn", "factor": 4.0, "original_max_positions": 128}, 512),
        ({"type": "yarn", "factor": 2.0, "original_max_positions": 64}, 128),
    ],
)
def test_stretched_positions_count(scaling: dict[str, Any], longest: int) -> None:
    shape = ModelSettings(**SHAPE, family="llama", max_positions=128, rope_scaling=RopeScaling(**scaling))
    assert shape.longest == longest


def test_a_mask_that_no_memory_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = place / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 10**7}), "utf-8")
    with pytest.raises(UserError, match=r"dpo: a step takes at least .* GiB \(activations .* are free"):
        run_recipe(recipe(place, dpo={"length": 10**6}))
    assert not (place / "out").exists()


def tuned(**more: Any) -> dict[str, Any]:
    return {"tune": {"method": "lora", "rank": 4, **more}}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (tuned(), tuned(rank=8), "rank 4, scale 2, and dpo asks for rank 8, scale 2"),
        (tuned(), tuned(alpha=4.0), "rank 4, scale 2, and dpo asks for rank 4, scale 1"),
        (tuned(dora=True), tuned(), "rank 4, scale 2, DoRA, and dpo asks for rank 4, scale 2"),
        (tuned(rslora=True), tuned(), "rank 4, scale 4, and dpo asks for rank 4, scale 2"),
        (tuned(start="pissa"), tuned(start="pissa"), "rank 8, scale 2, and dpo asks for rank 4, scale 2"),
    ],
)
def test_an_adapter_of_another_form_is_refused_by_the_recipe_alone(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=f"dpo.train.tune: the adapter that sft leaves has {said}"):
        recipe(tmp_path, first, second)


def test_those_that_fit_are_not(tmp_path: Path) -> None:
    recipe(tmp_path, tuned(), tuned(dropout=0.1))
    recipe(tmp_path, tuned(start="pissa"), tuned(rank=8))
    recipe(tmp_path, tuned(), {})
    recipe(tmp_path, {}, tuned(rank=8))


def test_an_adapter_that_another_recipe_left(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = recipe(place, tuned())
    run_recipe(first.model_copy(update={"dpo": None}))
    capsys.readouterr()
    again = recipe(place, {}, tuned(rank=8), out=str(place / "other"))
    from_it = again.dpo.model_copy(update={"start": str(place / "out" / "sft")})
    said = refused(again.model_copy(update={"sft": None, "dpo": from_it}), capsys)
    assert "the adapter to start from has rank 4, scale 2, and dpo.train.tune asks for rank 8, scale 2" in said
