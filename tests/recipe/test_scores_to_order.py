"""What cleaning measured orders, filters and mixes training, and nothing is measured or tokenised twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.config import check
from danlu.infer.model import load
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.text.readers import read_rows
from danlu.tokens import encode_sources
from danlu.tokens.pack import open_stream
from danlu.tokens.settings import DataSettings

BITS = "perplexity.bits_per_byte"
# The model recites 你好，Hello world👋！ and knows nothing else: the more of it a text has, the fewer bits.
TEXTS = ["你好，Hello world👋！" * (n % 7) + f"第{n}篇 page {n}" for n in range(40)] + ["短", "x"]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was tokenised."""
    calls: list[str] = []
    encode = encode_sources.encode_part

    def counted(**named: Any) -> Any:
        calls.append(named["source"]["name"])
        return encode(**named)

    monkeypatch.setattr(encode_sources, "encode_part", counted)
    return calls


def recipe_of(folder: Path, model: Path, sources: list[dict[str, Any]], curriculum: dict[str, Any] | None) -> Recipe:
    if not (folder / "raw.jsonl").exists():
        (folder / "raw.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    step = {"op": "perplexity", "model": str(model), "shortest": 1}
    clean = {
        "sources": [{"path": "raw.jsonl", "kind": "document", "name": "raw"}],
        "steps": [{"op": "normalise"}, {"op": "characters", "languages": ["zh", "mixed"]}, step],
        "keep_scores": ["perplexity", "characters.han"],
        "workers": 1,
    }
    data = {"sources": sources, "length": 64, "held_out": 0.0, "workers": 1, "curriculum": curriculum}
    content = {
        "name": "scores", "out": str(folder / "out"), "data": str(folder), "clean": clean,
        "tokenizer": {"path": str(model)}, "model": {"from": str(model)},
        "pretrain": {"data": data, "train": {"steps": 1, "batch": 4}},
    }  # fmt: skip
    return check(Recipe, content)


def stream_of(recipe: Recipe) -> Any:
    assert recipe.pretrain is not None
    return open_stream(recipe.out / "pack" / "pretrain", recipe.pretrain.data, "pretrain", seed=1)


def bits_in_order(recipe: Recipe) -> list[float]:
    stream = stream_of(recipe)
    [token_set] = stream.sets
    column = token_set.manifest["scores"].index(BITS)
    places = [taken.place for taken in stream.examples(0, len(TEXTS))]
    return [float(token_set.shard(place.shard).scores[place.index, column]) for place in places]


def test_from_a_score_to_the_order_of_training(tmp_path: Path, reciting_model: Path, encoded: list[str]) -> None:
    source = [{"path": "clean:documents", "name": "raw"}]
    easy_half = {"by": BITS, "stages": [{"until": 0.9, "below": "q50"}]}
    recipe = recipe_of(tmp_path, reciting_model, source, easy_half)
    run_recipe(recipe, until="pack")
    rows = {row.fields["text"]: row.fields["meta"] for row in read_rows(tmp_path / "out" / "clean" / "documents")}
    assert list(rows) == TEXTS
    expected = dict(zip(TEXTS, load(reciting_model).scores(TEXTS, 512), strict=True))
    for text, meta in rows.items():
        assert meta[BITS] == pytest.approx(expected[text].bits_per_byte, rel=1e-5)
        assert "characters.digits" not in meta
        assert ("characters.han" in meta) == any("\u4e00" <= letter <= "\u9fff" for letter in text)
    seen = bits_in_order(recipe)
    middle = float(np.median(seen))
    easy, hard = (sum(bits < middle for bits in seen), sum(bits > middle for bits in seen))
    assert min(easy, hard) > 15 and max(seen[:easy]) < middle <= min(seen[easy:]) and seen != sorted(seen)
    assert encoded == ["raw"]

    hard_half = {"by": BITS, "first": "high", "stages": [{"until": 0.9, "above": "q50"}]}
    upside_down = recipe_of(tmp_path, reciting_model, source, hard_half)
    outcomes = {one.stage.name: one.state for one in run_recipe(upside_down, until="pack")}
    assert outcomes == {"clean": "unchanged", "tokenizer": "unchanged", "pack/pretrain": "finished"}
    seen = bits_in_order(upside_down)
    assert min(seen[:hard]) > middle >= max(seen[hard:])
    assert encoded == ["raw"], "another order tokenises nothing again"


def test_scores_choose_and_mix(tmp_path: Path, reciting_model: Path) -> None:
    halves = [
        {"path": "clean:documents", "name": "easy", "where": [f"{BITS} < 4"], "share": 0.9},
        {"path": "clean:documents", "name": "hard", "where": [f"{BITS} >= 4"], "share": 0.1},
    ]
    recipe = recipe_of(tmp_path, reciting_model, halves, None)
    run_recipe(recipe, until="pack")
    bits = [score.bits_per_byte for score in load(reciting_model).scores(TEXTS, 512)]
    manifest = read_manifest(tmp_path / "out" / "pack" / "pretrain")
    assert manifest is not None
    counts = {name: of["train"]["examples"] for name, of in manifest["sources"].items()}
    assert counts == {"easy": sum(one < 4 for one in bits), "hard": sum(one >= 4 for one in bits)}
    assert min(counts.values()) > 5 and manifest["mix"]["easy"]["share"] == pytest.approx(0.9)


def test_names_that_nothing_measures_are_said(tmp_path: Path, reciting_model: Path) -> None:
    recipe = recipe_of(tmp_path, reciting_model, [{"path": "clean:documents"}], None)
    assert recipe.clean is not None
    section = recipe.clean.model_dump()
    with pytest.raises(UserError, match="keep_scores: there is no step 'quality'"):
        check(type(recipe.clean), {**section, "keep_scores": ["quality"]})
    wrong = recipe.model_copy(
        update={"clean": check(type(recipe.clean), {**section, "keep_scores": ["characters.cjk"]})}
    )
    with pytest.raises(UserError, match="measures no number called 'cjk'"):
        run_recipe(wrong, until="clean")
    assert isinstance(recipe.pretrain and recipe.pretrain.data, DataSettings)
