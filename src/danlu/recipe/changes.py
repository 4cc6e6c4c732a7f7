"""What the results of a stage stand on, and in words what of it has changed since."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.differences import differences
from danlu.report.words import Language

Files = list[list[list[Any]]]
"""For each source its files: name, size, time of change."""
FEW = 4


@dataclass(frozen=True)
class Basis:
    """Settings (JSON-like) that count, files, and the keys of the stages that are needed, by name."""

    settings: dict[str, Any]
    files: Files
    needs: dict[str, str]


@dataclass(frozen=True)
class Change:
    """`setting` is the dotted name of what changed; empty where it is none. In words of both languages."""

    setting: str
    en: str
    zh: str

    def within(self, names: Iterable[str]) -> bool:
        """Whether it is in one of these settings, which may be groups of others."""
        return any(self.setting == name or self.setting.startswith((f"{name}.", f"{name}[")) for name in names)


def changes(before: Basis, now: Basis) -> list[Change]:
    """What differs: settings, then files, then stages that are needed."""
    chinese = differences(before.settings, now.settings, absent="无")
    found = [
        Change(name, f"{name} changed {values}", f"{name} 改变（{chinese[name]}）")
        for name, values in differences(before.settings, now.settings).items()
    ]
    files = {_file(file) for of in before.files for file in of} ^ {_file(file) for of in now.files for file in of}
    if files or before.files != now.files:
        found.append(_changed(sorted({name for name, *_ in files}) or None))
    stages = [name for name in {**before.needs, **now.needs} if before.needs.get(name) != now.needs.get(name)]
    return [*found, _changed(stages)] if stages else found


def _changed(names: list[str] | None) -> Change:
    """Files or stages; None for the order of files."""
    if names is None:
        return Change("", "the order of its files changed", "文件的次序改变")
    return Change("", f"{few(names)} changed", f"{few(names, 'zh')} 改变")


def few(names: list[str], language: Language = "en") -> str:
    """The first of many names, and how many more there are."""
    left = len(names) - FEW
    comma, more = ("、", f" 等 {len(names)} 项") if language == "zh" else (", ", f" and {left} more")
    return comma.join(names[:FEW]) + (more if left > 0 else "")


def without(settings: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The settings but those of dotted `names`."""
    left = dict(settings)
    for name in names:
        head, _, rest = name.partition(".")
        if rest and head in left:
            left[head] = without(left[head], (rest,))
        elif not rest:
            left.pop(head, None)
    return left


def named_below(folder: Path, value: Any) -> Any:
    """JSON-like values in which paths to `folder` or below it begin with `out:`, so that it may move."""
    if isinstance(value, dict):
        return {key: named_below(folder, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [named_below(folder, inner) for inner in value]
    if isinstance(value, str) and (value == str(folder) or value.startswith(f"{folder}{os.sep}")):
        return f"out:{value.removeprefix(str(folder))}"
    return value


def _file(file: list[Any]) -> tuple[str, int, int]:
    name, size, time = file
    return name, size, time
