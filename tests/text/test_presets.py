"""Presets: they are steps like any others, and they keep good text and drop bad text, by the self-test's count."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.text.presets import PRESETS, PresetName, preset_steps
from danlu.text.selftest.run import LANGUAGES, WANTED, selftest, share_right
from danlu.text.selftest.samples import samples
from danlu.text.settings import CleanSettings

SOURCES = [{"path": "raw"}]


def settings(**given: Any) -> CleanSettings:
    return check(CleanSettings, {"sources": SOURCES, **given})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_way_to_write_its_steps(name: PresetName) -> None:
    preset = settings(preset=name)
    assert preset == settings(steps=preset_steps(name))
    assert preset == CleanSettings.model_validate_json(preset.model_dump_json())


def test_a_preset_beside_steps_is_refused() -> None:
    with pytest.raises(UserError, match="`preset` and `steps` are both given"):
        settings(preset="zh", steps=[{"op": "normalise"}])


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UserError, match="preset"):
        settings(preset="chinese")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_the_good_and_drop_the_bad(name: PresetName) -> None:
    outcomes = selftest(name)
    for language in LANGUAGES[name]:
        mine = [outcome for outcome in outcomes if outcome.sample.language == language]
        wrong = [(outcome.sample.category, outcome.dropped) for outcome in mine if not outcome.right]
        assert share_right(mine, good=True) >= WANTED, wrong
        assert share_right(mine, good=False) >= WANTED, wrong


def test_the_texts_are_many_various_and_the_same_for_a_seed() -> None:
    texts = samples(("zh", "en"))
    for language in ("zh", "en"):
        for good in (True, False):
            mine = [sample for sample in texts if (sample.language, sample.good) == (language, good)]
            assert len(mine) >= 150
            assert len({sample.text for sample in mine}) > 0.9 * len(mine)
            assert len({sample.category for sample in mine}) >= 14
    assert samples(("zh", "en")) == texts != samples(("zh", "en"), seed=1)
