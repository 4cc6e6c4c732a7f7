"""An exported reward model carries the agreement of its rewards, and one that rewards otherwise is not written."""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from danlu.evaluate.reward_agreement import reward_agreement
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.reward_head import reward_decoder
from danlu.recipe.export import export_model
from danlu.tokens.template import Template

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny

TEXTS = ["好，谢谢！", "Hello there", "😀", "１２３", "no…", "处处闻啼鸟", "a b c", "The end."]


def rewarding(seed: int) -> Decoder:
    return reward_decoder(tiny.decoder(), seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_decoder(rewarding(7), tmp_path / "model", Template(tiny.tokenizer(), choice="chatml").tokenizer)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), "utf-8")
    return tmp_path / "model"


def rewards_of_transformers(folder: Path, texts: list[list[int]], dtype: torch.dtype) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    # One row at a time: without padding the last token is the last place.
    with torch.no_grad():
        return [float(model(torch.tensor([ids])).logits[0, 0]) for ids in texts]


def test_the_figures_are_those_of_transformers_rewards(folder: Path, tmp_path: Path) -> None:
    save_decoder(rewarding(8), tmp_path / "other", tiny.tokenizer())
    texts = [tiny.tokenizer().encode(text) for text in TEXTS]
    one, two = (rewards_of_transformers(path, texts, torch.float32) for path in (folder, tmp_path / "other"))
    found = reward_agreement(load_decoder(folder), load_decoder(tmp_path / "other"), texts)
    count = len(texts)
    assert found.difference == pytest.approx(max(abs(a - b) for a, b in zip(one, two, strict=True)), abs=1e-5)
    assert found.spread == pytest.approx(np.std(one), rel=1e-4)
    pairs = list(combinations(range(count), 2))
    assert found.pairs == sum((one[i] < one[j]) == (two[i] < two[j]) for i, j in pairs) / len(pairs)
    places = [[sorted(values).index(value) for value in values] for values in (one, two)]
    squares = sum((a - b) ** 2 for a, b in zip(*places, strict=True))
    assert found.rank_correlation == pytest.approx(1 - 6 * squares / (count * (count**2 - 1)))
    assert (found.prompts, found.tokens, found.same_model) == (count, sum(map(len, texts)), False)


def test_equal_rewards_agree_in_full() -> None:
    found = reward_agreement(rewarding(7), rewarding(7), [[5, 6], [7], [7]])
    assert (found.difference, found.rank_correlation, found.pairs, found.same_model) == (0, 1, 1, True)


def test_an_export_holds_the_score(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_model(folder, tmp_path / "out", "bf16", prompts=tmp_path / "texts.txt")
    score = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert (score["source"], score["made"], score["prompts"]) == (str(folder), "bf16", len(TEXTS))
    assert 0 < score["difference"] < 0.1 * score["spread"] and score["rank_correlation"] > 0.9
    assert "ranked the same" in capsys.readouterr().out
    export_model(folder, tmp_path / "exact", "float32")
    exact = json.loads((tmp_path / "exact" / "agreement.json").read_text())
    assert exact["difference"] < 1e-6 and exact["pairs"] == exact["rank_correlation"] == 1


def test_one_that_rewards_otherwise_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.model.folder.load_decoder", lambda *_: rewarding(8))
    with pytest.raises(UserError, match=r"bf16 is another model than .* of the pairs of 16 texts ranked the same"):
        export_model(folder, tmp_path / "out", "bf16")
    assert not (tmp_path / "out").exists()
    export_model(folder, tmp_path / "out", "bf16", accept=True)
    assert json.loads((tmp_path / "out" / "agreement.json").read_text())["pairs"] < 0.95
    (tmp_path / "one.txt").write_text("一", "utf-8")
    with pytest.raises(UserError, match="cannot be ranked"):
        export_model(folder, tmp_path / "alone", "bf16", prompts=tmp_path / "one.txt")
