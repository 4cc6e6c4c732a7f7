"""A row that cannot be used, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable

from danlu.ledger.errors import UserError


class BadRow(Exception):
    """`reason` is one of few, so that it can be counted; `detail` belongs to this row alone."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason} ({detail})" if detail else reason)


class LeftOut(BadRow):
    """What is no fault but nothing to read either: counted by reason, and never a reason to stop."""


OnBad = Callable[[BadRow, str], None]
"""Takes what is wrong and the place ("file:line"); returns to go on with the next row."""


def refuse(bad: BadRow, where: str) -> None:
    """Ends at the first bad row."""
    if isinstance(bad, LeftOut):
        return
    raise UserError(str(bad), where=where, do="mend or remove the row, or set on_bad_row: skip")
