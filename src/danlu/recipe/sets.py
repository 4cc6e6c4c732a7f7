"""`danlu sets`: what the encoded sources that runs share weigh, and how to be rid of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from danlu.ledger.errors import UserError
from danlu.ledger.progress import brief
from danlu.tokens.store import Store


def show_sets(folder: Path, clear: float | None = None) -> None:
    """Prints the stored token sets; with `clear` first removes those that no run has asked for in so many days."""
    if not folder.is_dir():
        raise UserError(
            "no such folder", where=str(folder), do="token sets lie in `token-sets` beside a recipe's `out`"
        )
    store, console = Store(folder), Console(highlight=False)
    if clear is not None:
        gone = store.clear(clear)
        console.print(f"{len(gone)} token sets removed, {brief(sum(one.bytes for one in gone))}B")
    table = Table("key", "source", "unit", "tokens", "size", "last used", title=str(folder))
    found = store.stored()
    for one in found:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(one.key[:12], one.source, one.unit, brief(one.tokens), f"{brief(one.bytes)}B", used)
    console.print(table)
    console.print(
        f"{len(found)} token sets, {brief(sum(one.bytes for one in found))}B; unfinished work and surveys of files: "
        f"{brief(store.unfinished())}B"
    )
