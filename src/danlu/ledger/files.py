"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from danlu.ledger.errors import UserError
from danlu.ledger.progress import brief

LOCK = ".lock"
_UNWRITABLE = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG
)  # fmt: skip
_PARTIAL = ".partial-"


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file beside `path` and renames it to `path` once it is written and synced.

    Text is UTF-8 with `\\n` line ends. On any error `path` is left as it was.
    Raises UserError for a full disk or a folder that cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _fresh_partial(path)
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        try:
            with partial.open(mode, **text) as handle:  # type: ignore[call-overload]  # mode is open's own string
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives an empty folder beside `path` that becomes `path` once everything in it is synced.

    On any error nothing is left. With `replace` an older `path` is moved away first and removed after.
    Raises UserError for a full disk or a folder that cannot be written, FileExistsError when `path` is there.
    """
    with explained(path):
        if path.exists() and not replace:
            raise FileExistsError(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _fresh_partial(path)
        try:
            partial.mkdir()
            yield partial
            shared = partial.stat().st_mode & 0o666  # safetensors makes files that only their owner can read
            for entry in [*partial.rglob("*"), partial]:
                if entry.is_file():
                    entry.chmod(shared)
                _sync(entry)
            if path.exists():
                old = path.with_name(f".{path.name}{_PARTIAL}old-{os.getpid()}")
                path.rename(old)
                partial.rename(path)
                shutil.rmtree(old)
            else:
                partial.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def make_folder(path: Path) -> Path:
    """Makes a folder and those above it where they are not there; gives `path`. Raises UserError where that fails."""
    with explained(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError("a file, not a folder", where=str(path), do="name another folder (out=...)") from None
    return path


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keeps other processes out of `folder` until the block ends, however it ends.

    Raises UserError where another process has it.
    """
    path = make_folder(folder) / LOCK
    with explained(path):
        handle = path.open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another danlu is at work in this folder", where=str(folder), do="wait for it, or choose another out=…"
            ) from None
        yield


def read_json(path: Path, do: str = "delete this folder, and run again") -> dict[str, Any]:
    """The JSON object in a file. Raises UserError, with what to `do`, for anything else in it."""
    return _json_object(path.read_bytes(), str(path), do)


def read_json_lines(path: Path, do: str = "delete that line, and run again") -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file; a torn last line is left out. Raises UserError for other lines."""
    with path.open("rb") as handle:
        lines = enumerate(handle, 1)
        return [_json_object(line, f"{path}:{number}", do) for number, line in lines if line.endswith(b"\n")]


def _json_object(content: bytes, where: str, do: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({error})", where=where, do=do) from None
    if not isinstance(value, dict):
        raise UserError("not a JSON object", where=where, do=do)
    return value


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """The hex SHA-256 of JSON-like values, settings and dataclasses; equal ones have equal fingerprints."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


def drop_torn_line(path: Path) -> None:
    """Cuts a last line without its line end, which a kill in mid-write leaves, off a file of lines."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as handle:
            handle.truncate(whole)


def require_space(folder: Path, nbytes: int, purpose: str = "this") -> None:
    """Raises UserError when the disk that holds `folder` has less than `nbytes` free."""
    at = folder
    while not at.exists():
        at = at.parent
    free = shutil.disk_usage(at).free
    if free < nbytes:
        raise UserError(
            f"{purpose} needs {brief(nbytes)}B and {brief(free)}B are free",
            where=str(folder),
            do="free some space, write to another disk, or keep fewer checkpoints",
        )


def _fresh_partial(path: Path) -> Path:
    """A free name beside `path`; what dead processes left behind under such names is removed."""
    for stale in path.parent.glob(f".{path.name}{_PARTIAL}*"):
        owner = stale.name.rpartition("-")[2]
        if not (owner.isdigit() and _alive(int(owner))):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a full disk, a limit on files, or a place that cannot be written into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                "the disk is full; nothing half-written was left", where=str(path), do="free some space, then run again"
            ) from error
        if error.errno == errno.EFBIG:
            raise UserError(
                "a file may not become larger here; nothing half-written was left",
                where=str(path),
                do="raise the limit (ulimit -f), or write to another file system, then run again",
            ) from error
        if error.errno in _UNWRITABLE:
            raise UserError(
                "this place cannot be written", where=str(path), do="choose another output folder (out=...)"
            ) from error
        raise
