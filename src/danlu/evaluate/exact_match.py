"""Exact match of short answers, after both sides are written in one way."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from danlu.evaluate.statistics import standard_error, wilson

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_SIGNS = re.compile(r"(?<=\d)\.(?=\d)|(?<!\w)-(?=\d)")
_AROUND_HAN = re.compile(r"\s*([\u3400-\u4dbf\u4e00-\u9fff])\s*")


def normalise(text: str) -> str:
    """The text in NFKC and lower case, without punctuation, with single spaces and none beside a Chinese character.

    The point of a decimal number and the sign of a negative one stay; commas between thousands go. Full-width
    forms become half-width ones by NFKC.
    """
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    kept = {match.start() for match in _NUMBER_SIGNS.finditer(text)}
    spaced = "".join(
        character if at in kept or not unicodedata.category(character).startswith("P") else " "
        for at, character in enumerate(text)
    )
    return _AROUND_HAN.sub(r"\1", " ".join(spaced.split()))


def matches(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer as a whole is one of the accepted ones, both normalised."""
    return normalise(answer) in {normalise(text) for text in accepted}


def exact_match(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarises rows of `kind`, `language` and `right`: `accuracy` with `stderr`, the 95% Wilson interval `low` to
    `high` and `n`; the same under `language` {name} and `kind` {name: {language: …}}. Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("exact match is measured on at least one answer")
    kinds: dict[str, dict[str, list[bool]]] = {}
    languages: dict[str, list[bool]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], {}).setdefault(row["language"], []).append(row["right"])
        languages.setdefault(row["language"], []).append(row["right"])
    return {
        **_share([row["right"] for row in rows]),
        "language": {name: _share(right) for name, right in sorted(languages.items())},
        "kind": {
            kind: {language: _share(right) for language, right in sorted(parts.items())}
            for kind, parts in sorted(kinds.items())
        },
    }


def _share(right: list[bool]) -> dict[str, float]:
    n, hits = len(right), sum(right)
    low, high = wilson(hits, n)
    return {"accuracy": hits / n, "stderr": standard_error(hits / n, n), "low": low, "high": high, "n": n}
