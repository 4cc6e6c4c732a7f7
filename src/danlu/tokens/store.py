"""Encoded sources that runs share: a folder of token sets, each under a key of all that its tokens depend on."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from danlu.ledger.files import explained, fingerprint, make_folder
from danlu.ledger.manifest import NAME, read_manifest
from danlu.tokens.shards import SPLITS

_WORK, _LOCKS = ".work", ".locks"
_SAYS = {"source", "unit", "tokens", "bytes"}
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Stored:
    """One encoded source."""

    key: str
    source: str
    unit: str
    tokens: int
    bytes: int
    used: float
    """When a run last asked for it, in seconds of the epoch."""


class Store:
    """A folder with a token set for each key, which appears whole or not at all.

    Any number of processes may use it: the first that needs a key holds its lock and encodes, the others wait and find
    it done. Where a file system has no locks they encode side by side, and the first to finish is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, key: str) -> Path:
        return self.folder / key

    def has(self, key: str) -> bool:
        place = self.place(key)
        return all((place / split / NAME).is_file() for split in (".", *SPLITS))

    def used(self, key: str) -> dict[str, Any]:
        """The manifest of a set that is there; notes that it is in use, as far as its owner lets us."""
        with suppress(PermissionError):
            os.utime(self.place(key) / NAME)
        return read_manifest(self.place(key)) or {}

    def work(self, out: Path) -> Path:
        """Where the run in `out` keeps unfinished work and what it knows of its files; parked with no settings."""
        return self.folder / _WORK / fingerprint(str(out.resolve()))[:16]

    @contextmanager
    def locked(self, keys: Iterable[str]) -> Iterator[None]:
        """Keeps others from making the same sets."""
        with ExitStack() as stack:
            for key in sorted(keys):  # one order for all, so that no two wait for each other
                path = make_folder(self.folder / _LOCKS) / key
                with explained(path):
                    _wait_for(stack.enter_context(path.open("a")))
            yield

    def publish(self, made: Path, key: str) -> None:
        """Moves a finished folder to its key; where another process was faster, that one's stays."""
        with explained(self.place(key)):
            if not self.has(key):  # somebody deleted a part of it
                shutil.rmtree(self.place(key), ignore_errors=True)
            try:
                made.rename(self.place(key))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(made)

    def stored(self) -> list[Stored]:
        """What is there, the last used first."""
        found = []
        for manifest in self.folder.glob(f"*/{NAME}"):
            content = read_manifest(manifest.parent) or {}
            if content.keys() >= _SAYS:
                values = {name: content[name] for name in _SAYS}
                found.append(Stored(key=manifest.parent.name, used=manifest.stat().st_mtime, **values))
        return sorted(found, key=lambda one: -one.used)

    def unfinished(self) -> int:
        """Bytes of work that was begun; the same runs go on with it."""
        files = [path for path in (self.folder / _WORK).rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    def clear(self, days: float) -> list[Stored]:
        """Removes what no run has asked for in so many days, with all unfinished work that old; says what went."""
        before = time.time() - days * DAY
        gone = [one for one in self.stored() if one.used <= before]
        for one in gone:
            # Moved away first: half a set is none.
            self.place(one.key).rename(make_folder(self.folder / _WORK) / f"gone-{one.key}")
            (self.folder / _LOCKS / one.key).unlink(missing_ok=True)
        for work in (self.folder / _WORK).glob("*"):
            if (
                work.name.startswith("gone-")
                or max(path.stat().st_mtime for path in [work, *work.rglob("*")]) <= before
            ):
                shutil.rmtree(work)
        return gone


def _wait_for(handle: IO[str]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        Console(stderr=True, highlight=False).print("pack: another run encodes the same source; waiting")
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
