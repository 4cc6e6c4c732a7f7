"""Errors for the person who must act: what happened, where, what to do."""

from __future__ import annotations

import signal


class UserError(Exception):
    """A mistake that the user can mend; shown without a traceback.

    `what` happened, `where` (file and line, key or row), what to `do` about it.
    """

    def __init__(self, what: str, *, where: str | None = None, do: str | None = None) -> None:
        self.what, self.where, self.do = what, where, do
        lines = [f"{where}: {what}" if where else what]
        if do:
            lines.append(f"  → {do}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.where, self.do)


def _rebuild(what: str, where: str | None, do: str | None) -> UserError:
    return UserError(what, where=where, do=do)


class Stopped(Exception):
    """The user asked to stop and all work was saved; the message says how to go on. `asked` is the signal's number."""

    def __init__(self, told: str, asked: int = signal.SIGINT) -> None:
        self.asked = asked
        super().__init__(told)
