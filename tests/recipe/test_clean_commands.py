"""`danlu clean preset` and `selftest` as a user calls them."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from danlu.cli import app
from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.text.presets import PRESETS
from danlu.text.selftest.run import Outcome
from danlu.text.selftest.samples import Sample
from danlu.text.settings import CleanSettings


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_can_be_copied_into_a_recipe(name: str) -> None:
    printed = yaml.safe_load(CliRunner().invoke(app, ["clean", "preset", name]).output)
    sources = {"sources": [{"path": "raw"}]}
    assert check(CleanSettings, sources | printed) == check(CleanSettings, sources | {"preset": name})


def test_the_self_test_shows_what_went_wrong_and_fails_below_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcomes(preset: str, seed: int) -> list[Outcome]:
        good = [Outcome(Sample("zh", "新闻", True, f"好文{n}"), None) for n in range(19 + seed)]
        bad = [Outcome(Sample("en", "menu", False, "Home"), "keywords: density too high")] * 20
        return [*good, Outcome(Sample("zh", "新闻", True, "冤枉"), "lines: duplicate lines too high"), *bad]

    monkeypatch.setattr("danlu.recipe.presets.selftest", outcomes)
    enough = CliRunner().invoke(app, ["clean", "selftest", "zh"])
    assert enough.exit_code == 0
    assert "95.0% of the good kept" in enough.output
    assert "19/20" in enough.output
    assert "冤枉" in enough.output
    monkeypatch.setattr("danlu.recipe.presets.selftest", lambda preset, seed: outcomes(preset, seed)[1:])
    assert CliRunner().invoke(app, ["clean", "selftest", "zh"]).exit_code == 1


def test_an_unknown_preset_is_named() -> None:
    result = CliRunner().invoke(app, ["clean", "selftest", "latin"])
    assert isinstance(result.exception, UserError)
    assert "no preset latin" in str(result.exception)
