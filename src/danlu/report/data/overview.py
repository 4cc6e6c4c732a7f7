"""What a cleaned folder shows first: rows read, rows that were broken, and what is kept of the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from danlu.report.data.words import tell
from danlu.report.reasons import reason_in, step_name
from danlu.report.scores import Tile
from danlu.report.words import Language, colon, comma, number, percent

BAD = "bad: "
"""Before the reasons for which a row could not be used."""
MOST_REASONS, MOST_STEPS = 3, 2
Turn = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a source gave: rows, those of them that were broken by reason, records; and how many are kept."""

    rows: int
    bad: dict[str, int]
    records: int
    kept: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """From a source's entry in the manifest."""
        counts = {reason: found["count"] for reason, found in entry["read"].items()}
        bad = {reason.removeprefix(BAD): count for reason, count in counts.items() if reason.startswith(BAD)}
        return cls(counts.get("rows", 0), bad, counts.get("records", 0), entry["kept"])

    @property
    def broken(self) -> int:
        return sum(self.bad.values())


def tiles(statistics: dict[str, list[Turn]], reads: dict[str, Read], language: Language) -> list[Tile]:
    """Rows and broken rows, records, characters and tokens kept, and the steps that dropped most."""
    found = [*_read(list(reads.values()), language)]
    first, last = Counter[str](), Counter[str]()
    for source, turns in statistics.items():
        first["records"] += reads[source].records
        last["records"] += reads[source].kept
        for name in ("characters", "tokens"):
            came, left = through(turns, name)
            first[name] += came
            last[name] += left
    for title, what in (("documents_out", "records"), ("characters_out", "characters"), ("tokens_out", "tokens")):
        if first[what] or what != "tokens":
            share = percent(last[what] / first[what]) if first[what] else ""
            found.append(Tile(tell(title, language), [number(first[what]), number(last[what])], share))
    by_step = Counter[str]()
    for turn in (turn for turns in statistics.values() for turn in turns):
        by_step[turn["step"]] += dropped_by(turn)
    for op, count in by_step.most_common(MOST_STEPS):
        if count:
            title = f"{tell('dropped', language)}{colon(language)}{step_name(op, language)}"
            found.append(Tile(title, [number(count)]))
    return found


def _read(reads: list[Read], language: Language) -> list[Tile]:
    rows, broken = sum(read.rows for read in reads), sum(read.broken for read in reads)
    why = Counter[str]()
    for read in reads:
        why.update(read.bad)
    said = [f"{reason_in(reason, language)} {number(count)}" for reason, count in why.most_common(MOST_REASONS)]
    said += ["…"] if len(why) > MOST_REASONS else []
    note = f"{percent(broken / rows)}{colon(language)}{comma(language).join(said)}" if broken and rows else ""
    return [
        Tile(tell("rows_read", language), [number(rows)]),
        Tile(tell("rows_broken", language), [number(broken)], note, wrong=bool(broken)),
    ]


def through(turns: list[Turn], what: str) -> tuple[int, int]:
    """How many characters or tokens came to the first step that knows them, and how many the last one left."""
    came = max((turn[f"{what}_in"] for turn in turns), default=0)
    return came, came - sum(turn[f"{what}_in"] - turn[f"{what}_out"] for turn in turns)


def dropped_by(turn: Turn) -> int:
    """How many records a turn dropped."""
    return sum(entry["count"] for entry in turn["dropped"].values())
