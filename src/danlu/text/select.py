"""Which rows of a source are taken: conditions on columns, read without evaluating any code."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*|\s+(in|not\s+in)\s+")
_VALUE = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^,"'\s][^,]*?|)\s*(?:,|$)""")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Condition:
    """`COLUMN OPERATOR VALUE`: ==, !=, <, <=, >, >= with one value, in and not in with several, commas between.

    A dotted column goes into nested objects. A column that holds a list fits where one of its items fits.
    """

    text: str
    column: str
    operator: str
    values: tuple[str | float | bool | None, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises ValueError with a full sentence for anything that is no condition."""
        found = _OPERATOR.search(text)
        if found is None or not text[: found.start()].strip() or not text[found.end() :].strip():
            raise ValueError(
                f"{text!r} is no condition. Write COLUMN OPERATOR VALUE, such as 'quality_score >= 0.5', "
                "'langdetect == zh-cn' or 'label.kind in a, b'."
            )
        sign = " ".join((found[1] or found[2]).split())
        rest = text[found.end() :]
        values = _values(rest) if sign in ("in", "not in") else (_value(rest.strip()),)
        if sign in _ORDER and not isinstance(values[0], float):
            raise ValueError(f"{text!r} compares with {rest.strip()!r}, and {sign} needs a number.")
        return cls(text, text[: found.start()].strip(), sign, values)

    def holds(self, fields: dict[str, Any]) -> bool | None:
        """Whether a row fits; None where it has no such column or no value there."""
        value = column(fields, self.column)
        if value is _MISSING or (value is None and None not in self.values):
            return None
        found = any(self._fits(item) for item in (value if isinstance(value, list) else [value]))
        return not found if self.operator in ("!=", "not in") else found

    def _fits(self, item: Any) -> bool:
        if self.operator in _ORDER:
            number = _number(item)
            return number is not None and _ORDER[self.operator](number, self.values[0])
        return any(_same(item, value) for value in self.values)


def column(fields: dict[str, Any], name: str) -> Any:
    """The value of a column, of a dotted way into one, or of one kept in `meta` by an earlier step."""
    if name in fields:
        return fields[name]
    head, _, rest = name.partition(".")
    if rest and isinstance(fields.get(head), dict):
        return column(fields[head], rest)
    meta = fields.get("meta")
    return column(meta, name) if isinstance(meta, dict) else _MISSING


def _values(text: str) -> tuple[str | float | bool | None, ...]:
    values, at = [], 0
    while at < len(text):
        found = _VALUE.match(text, at)
        if found is None:
            raise ValueError(
                f"{text!r} is no list of values. Put commas between them and quotes around text with commas."
            )
        values.append(_value(found[1]))
        at = found.end()
    return tuple(values)


def _value(text: str) -> str | float | bool | None:
    if text[:1] == '"' and text[-1:] == '"' and len(text) > 1:
        return str(json.loads(text))
    if text[:1] == "'" and text[-1:] == "'" and len(text) > 1:
        return text[1:-1]
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    number = _number(text)
    return text if number is None else number


def _number(item: Any) -> float | None:
    """A number, also one written as text, as all cells of a CSV file are; NaN is none."""
    if isinstance(item, bool) or not isinstance(item, int | float | str):
        return None
    try:
        number = float(item)
    except (ValueError, OverflowError):
        return None
    return number if number == number else None


def _same(item: Any, value: str | float | bool | None) -> bool:
    if isinstance(value, bool):
        return item is value or (isinstance(item, str) and item.lower() == str(value).lower())
    if isinstance(value, float):
        return _number(item) == value
    return bool(item == value)
