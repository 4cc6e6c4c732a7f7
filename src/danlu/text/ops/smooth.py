"""Smoothing of spoken text, and what it changed as a diff."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from danlu.ledger.errors import UserError
from danlu.text.ops.contents import messages_of, with_messages
from danlu.text.ops.operator import Column
from danlu.text.ops.spoken import RULES, suspicious
from danlu.text.records import Conversation, Document, Message, Preference, Record
from danlu.text.steps.dialogue import SmoothStep

NOISES = ("fillers", "repeats", "punctuation", "slips")
_WITHHELD = "\ue000"  # stands for what may not change; it is no character of any script
_KEPT = r"```.*?(?:```|\Z)|`[^`\n]+`|https?://[^\s`\u3000-\u9fff]+|《[^》\n]{1,40}》|\$[^$\n]+\$|" + _WITHHELD
_WORD = r"[A-Za-z0-9_'’-]"
_ABOUT_SLIPS = re.compile(
    "错别字|错字|改错|病句|拼写|语法|纠错|纠正|改正|更正|校对|typo|spell|grammar|proofread|correct", re.IGNORECASE
)
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|\s+|.", re.DOTALL)


def smooth(record: Record, step: SmoothStep) -> Record:
    """The record with the turns of `step.roles` smoothed; what was changed is counted in `meta.smoothed`."""
    counts: Counter[str] = Counter()
    if isinstance(record, Document):
        changed: Record = replace(record, text=smooth_text(record.text, step, counts=counts))
    else:
        changed = with_messages(record, _turns(record, step, counts))
    return replace(changed, meta={**record.meta, "smoothed": dict(counts)}) if counts else record


def measure(records: list[Record], step: SmoothStep) -> dict[str, Column]:
    """For each kind of noise, how often it was taken out."""
    found = [record.meta.get("smoothed", {}) for record in records]
    return {noise: [counts.get(noise, 0) for counts in found] for noise in NOISES}


def smooth_text(text: str, step: SmoothStep, opening: bool = False, counts: Counter[str] | None = None) -> str:
    """The text without noise; as it is where nothing would be left. `opening`: the turn answers nobody.

    Smoothing again changes nothing more.
    """
    slips = _slips_of(step)
    if not suspicious(text) and not (slips and slips.may_stand_in(text)):
        return text
    kept = _kept(tuple(step.keep))
    withheld = kept.findall(text)
    made = kept.sub(_WITHHELD, text)
    rules = [rule for rule in RULES if getattr(step, rule.noise) and (opening or not rule.opening)]
    changes: Counter[str] = Counter()
    if slips and slips.may_stand_in(made):
        made, times = slips.pattern.subn(lambda found: slips.table[found[0]], made)
        changes["slips"] += times
    before = ""
    while before != made:
        before = made
        for rule in rules:
            if any(sign in made for sign in rule.signs):
                made, times = rule.pattern.subn(rule.replacement, made)
                changes[rule.noise] += times
    if not changes.total() or not (withheld or any(map(str.isalnum, made))):
        return text
    (Counter() if counts is None else counts).update(+changes)
    return re.sub(_WITHHELD, lambda found: withheld.pop(0), made)


class Edit(NamedTuple):
    """A piece of text that stays ("="), went ("-") or came ("+")."""

    sign: str
    text: str


def difference(before: str, after: str) -> list[Edit]:
    """What became of a text, piece by piece: by characters in Chinese, by words elsewhere."""
    left, right = _TOKEN.findall(before), _TOKEN.findall(after)
    edits: list[Edit] = []
    for tag, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            edits.append(Edit("=", "".join(left[a:b])))
            continue
        edits += [Edit(sign, "".join(words)) for sign, words in (("-", left[a:b]), ("+", right[c:d])) if words]
    return edits


def read_slips(path: Path) -> dict[str, str]:
    """{wrong: right} of a table. Raises UserError for one that cannot be read or would never come to an end."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the table of slips cannot be read: {error}", where=str(path), do="correct the path") from None
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        wrong, tab, right = line.partition("\t")
        if not line.strip() or line.startswith("#"):
            continue
        if not tab or not wrong.strip() or "\t" in right:
            raise UserError("not a wrong word, a tab and the right one", where=f"{path}:{number}", do="mend the line")
        table[wrong] = right
    for wrong, right in table.items():
        if slip := next((slip for slip in table if slip in right), None):
            raise UserError(
                f"{wrong} becomes {right}, which holds {slip}, a slip itself", where=str(path), do="mend the table"
            )
    return table


def _turns(record: Conversation | Preference, step: SmoothStep, counts: Counter[str]) -> Callable[[Message], Message]:
    first = next((message for message in record.messages if message["role"] != "system"), None)
    if step.slips and any(_ABOUT_SLIPS.search(message["content"]) for message in messages_of(record)):
        step = step.model_copy(update={"slips": None})

    def turn(message: Message) -> Message:
        if message["role"] not in step.roles:
            return message
        text = smooth_text(message["content"], step, opening=message is first, counts=counts)
        return message if text == message["content"] else {**message, "content": text}

    return turn


class _Slips(NamedTuple):
    table: dict[str, str]
    pattern: re.Pattern[str]
    anywhere: Any
    """All of them as an automaton: many times as fast as the pattern, and mostly there is none."""

    def may_stand_in(self, text: str) -> bool:
        return next(self.anywhere.iter(text), None) is not None


def _slips_of(step: SmoothStep) -> _Slips | None:
    if step.slips is None:
        return None
    path = Path(step.files()[0])
    return _table(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(4)
def _table(path: Path, changed: int) -> _Slips:
    table = read_slips(path)
    english = {wrong for wrong in table if wrong.isascii() and wrong[0].isalpha() and wrong[-1].isalpha()}
    table = {wrong.capitalize(): table[wrong].capitalize() for wrong in english} | table
    whole = [rf"(?<!{_WORD}){re.escape(wrong)}(?!{_WORD})" for wrong in table if wrong.lower() in english]
    others = map(re.escape, sorted(table.keys() - {word for word in table if word.lower() in english}, key=len)[::-1])
    import ahocorasick

    anywhere = ahocorasick.Automaton()
    for wrong in table or ["\0"]:
        anywhere.add_word(wrong, wrong)
    anywhere.make_automaton()
    return _Slips(table, re.compile("|".join([*others, *whole]) or "(?!)"), anywhere)


@lru_cache(4)
def _kept(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, words), _KEPT]), re.DOTALL)
