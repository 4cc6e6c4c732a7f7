"""Words of the user's lists in a record, found all at once by the algorithm of Aho and Corasick."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.text.ops import ranges
from danlu.text.ops.contents import text_of
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.steps.statistics import KeywordsStep

_SHOWN = 10  # words named for a record
_FIRST_WITHOUT_BLANKS = "\u2e80"  # from here on scripts write no blanks between words, but for Korean's


@dataclass(frozen=True, slots=True)
class Keyword:
    word: str
    weight: float
    category: str
    begins: bool  # with a letter or digit before which no other may stand
    ends: bool


def measure(records: list[Record], step: KeywordsStep) -> dict[str, Column]:
    """`count`: the weights of all hits; `density`: count in 1,000 characters; `different`: how many words hit;
    `words`: those that hit most, as text.

    A word of the list counts also inside a longer one of the list.
    """
    automaton = matcher(step.files())
    texts = [text_of(record) for record in records]
    hits = [Counter(keyword for _, _, keyword in matches(automaton, text.lower())) for text in texts]
    counts = [sum(keyword.weight * times for keyword, times in found.items()) for found in hits]
    densities = [1000 * count / max(1, len(text)) for count, text in zip(counts, texts, strict=True)]
    words = [_shown(found) for found in hits]
    return {"count": counts, "density": densities, "different": list(map(len, hits)), "words": words}


def judge(values: dict[str, Any], step: KeywordsStep) -> tuple[str, Any] | None:
    """Too many or too few hits, with the words."""
    verdict = ranges.judge(values, step) if values["different"] >= step.least else None
    return verdict and (verdict[0], {"value": round(verdict[1], 3), "words": values["words"]})


def matcher(lists: list[str]) -> Any:
    """What finds the words of these files (see `matches`)."""
    return _automaton(tuple((path, *_stamp(path)) for path in lists))


def read_list(path: Path) -> list[tuple[str, float, str]]:
    """(word, weight, category) of each line: 1 and "" where absent.

    Raises UserError for a list that cannot be read, with the line.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(
            f"the word list cannot be read: {error.strerror}", where=str(path), do="correct the path"
        ) from None
    except UnicodeDecodeError:
        raise UserError("the word list is not UTF-8", where=str(path), do="save the file as UTF-8") from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not rows:
        raise UserError("the word list has no words", where=str(path), do="write one a line, or leave the list out")
    return [_parsed(line, f"{path}:{number}") for number, line in rows]


def _parsed(line: str, where: str) -> tuple[str, float, str]:
    word, *rest = (part.strip() for part in line.split("\t"))
    number = _number(rest[0]) if rest else None
    weight, category = (1.0, rest) if number is None else (number, rest[1:])
    if not word or len(category) > 1 or not 0 < weight < math.inf:
        raise UserError(
            "not a word with, after tabs, a weight above 0, a category, or both in this order",
            where=where,
            do="mend the line",
        )
    return word, weight, "".join(category)


def _number(text: str) -> float | None:
    try:
        return float(text or 1)
    except ValueError:
        return None


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0  # reading it says what is wrong
    return status.st_mtime_ns, status.st_size


@lru_cache(4)
def _automaton(stamps: tuple[tuple[str, int, int], ...]) -> Any:
    """Knows all words of the files, until one of them changes."""
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for path, *_ in stamps:
        for word, weight, category in read_list(Path(path)):
            lower = word.lower()
            keyword = Keyword(word, weight, category, _is_letter(lower[0]), _is_letter(lower[-1]))
            automaton.add_word(lower, (len(lower), keyword))
    automaton.make_automaton()
    return automaton


def matches(automaton: Any, lower: str) -> Iterator[tuple[int, int, Keyword]]:
    """(begin, end, keyword) of every hit in a text in lower case."""
    for last, (length, keyword) in automaton.iter(lower):
        begin, end = last - length + 1, last + 1
        inside = (keyword.begins and begin > 0 and _is_letter(lower[begin - 1])) or (
            keyword.ends and end < len(lower) and _is_letter(lower[end])
        )
        if not inside:
            yield begin, end, keyword


def _is_letter(character: str) -> bool:
    """Of a script with blanks between words."""
    return character < _FIRST_WITHOUT_BLANKS and character.isalnum()


def _shown(found: Counter[Keyword]) -> str:
    most = sorted(found.items(), key=lambda hit: -hit[0].weight * hit[1])
    return ", ".join(
        keyword.word + (f" ×{times}" if times > 1 else "") + (f" ({keyword.category})" if keyword.category else "")
        for keyword, times in islice(most, _SHOWN)
    )
