"""What was kept, dropped or mended, by reason, with places to look."""

from __future__ import annotations

from typing import Any, Self

EXAMPLES = 5


class Counts:
    """Counts by reason, each with the first few places where it happened."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, reason: str, where: str | None = None, times: int = 1) -> None:
        """Counts `reason`; `where` is a file and line, or a row, that a person can open."""
        self._counts[reason] = self._counts.get(reason, 0) + times
        examples = self._examples.setdefault(reason, [])
        if where is not None and len(examples) < EXAMPLES:
            examples.append(where)

    def __getitem__(self, reason: str) -> int:
        return self._counts.get(reason, 0)

    def __iter__(self) -> Any:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __add__(self, other: Counts) -> Counts:
        return Counts.from_dict(self.as_dict()).merge(other)

    def merge(self, other: Counts) -> Self:
        """Adds all of `other` to this one."""
        for reason, times in other._counts.items():
            self.add(reason, times=times)
            examples = self._examples[reason]
            examples.extend(other._examples.get(reason, [])[: EXAMPLES - len(examples)])
        return self

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """{reason: {"count": n, "examples": [...]}}, the greatest count first; JSON-ready."""
        order = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return {reason: {"count": self._counts[reason], "examples": self._examples[reason]} for reason in order}

    @classmethod
    def from_dict(cls, content: dict[str, dict[str, Any]]) -> Self:
        counts = cls()
        for reason, entry in content.items():
            counts._counts[reason] = entry["count"]
            counts._examples[reason] = list(entry["examples"])
        return counts
