"""The self-test of presets: good and bad text cleaned as any other text is, and counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from danlu.config import check
from danlu.text.clean import clean
from danlu.text.presets import PresetName
from danlu.text.readers import read_rows
from danlu.text.selftest.samples import EACH, Sample, SelfTestLanguage, samples
from danlu.text.settings import CleanSettings

WANTED = 0.95  # of the good are kept, of the bad dropped
LANGUAGES: dict[PresetName, tuple[SelfTestLanguage, ...]] = {
    "zh": ("zh",), "en": ("en",), "mixed": ("zh", "en"), "dialogue": ("zh", "en"),
}  # fmt: skip
# An answer may be markup, it was asked for; and one drawn-out cry is smoothed to a short one.
_WELCOME = {"dialogue": {"html soup", "one character"}}
_QUESTIONS = {"zh": "第{n}题", "en": "No. {n}"}  # short, so that the answer is what is judged


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a text: the step and reason that dropped it, or None."""

    sample: Sample
    dropped: str | None

    @property
    def right(self) -> bool:
        return (self.dropped is None) == self.sample.good


def selftest(preset: PresetName, seed: int = 0, each: int = EACH) -> list[Outcome]:
    """Cleans `each` texts of every category with the preset's steps."""
    texts = [one for one in samples(LANGUAGES[preset], seed, each) if one.category not in _WELCOME.get(preset, ())]
    with TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw.jsonl", Path(folder) / "out"
        rows = [{"n": n, **_row(preset, n, one)} for n, one in enumerate(texts)]
        raw.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        source = {"path": str(raw), "name": "texts"}
        clean(check(CleanSettings, {"sources": [source], "preset": preset, "workers": 1}), out)
        dropped = dict(map(_why, (row.fields for file in out.glob("dropped/*/texts/*") for row in read_rows(file))))
    return [Outcome(one, dropped.get(n)) for n, one in enumerate(texts)]


def share_right(outcomes: list[Outcome], *, good: bool) -> float:
    """Which share of the good texts was kept, or of the bad ones dropped."""
    rights = [outcome.right for outcome in outcomes if outcome.sample.good == good]
    return sum(rights) / len(rights)


def _row(preset: PresetName, n: int, sample: Sample) -> dict[str, Any]:
    if preset != "dialogue":
        return {"text": sample.text}
    question = _QUESTIONS[sample.language].format(n=n)
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": sample.text}]}


def _why(fields: dict[str, Any]) -> tuple[int, str]:
    return fields["meta"]["n"], f"{fields['step']}: {fields['reason']}"
