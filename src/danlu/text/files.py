"""Which files a source has."""

from __future__ import annotations

import difflib
from fnmatch import fnmatch
from pathlib import Path

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import NAME as MANIFEST
from danlu.ledger.manifest import read_manifest
from danlu.text.formats.code import language
from danlu.text.formats.tree import tree_files
from danlu.text.readers import file_form
from danlu.text.settings import Kind, SourceSettings


def source_files(source: SourceSettings, kind: Kind | None, counts: Counts) -> list[Path]:
    """A source's files in the order of their names.

    A cleaned folder gives its records of `kind`, or of all kinds with None. Files of other formats are counted.
    Raises UserError where there is nothing.
    """
    path = Path(source.path)
    fits = file_form if source.format == "auto" else language
    root = _root(path)
    if root != path:
        found = sorted(root.glob(str(path.relative_to(root))))
        if source.format == "code":
            found = [file for tree in found for file in tree_files(tree, counts)]
    elif path.is_dir() and source.format == "code":
        found = tree_files(path, counts)
    elif path.is_dir():
        parts = (read_manifest(path) or {}).get("parts")
        found = (
            _below(path) if parts is None else [path / part["file"] for part in parts if kind in (None, part["kind"])]
        )
        if parts is not None and not found:
            raise UserError(f"this cleaned folder holds no {kind}s", where=str(path), do="clean a source of that kind")
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise _nothing(path)
    files = [file for file in found if file.is_file() and _wanted(file, source)]
    for file in files:
        if fits(file) is None and len(files) > 1:
            counts.add("left out: file of another format", str(file))
    taken = [file for file in files if len(files) == 1 or fits(file) is not None]
    if not taken:
        raise UserError(
            "include and exclude leave no file that can be read", where=source.path, do=f"{len(found)} files are there"
        )
    return taken


def tree_root(source: SourceSettings) -> Path | None:
    """The folder from which a source of code gives its paths; None for other sources."""
    root = _root(Path(source.path))
    return None if source.format == "auto" else root if root.is_dir() else root.parent


def data_files(path: Path) -> list[Path]:
    """A file itself, or all data files below a folder."""
    if path.is_dir():
        return [file for file in _below(path) if file_form(file) is not None]
    if not path.exists():
        raise _nothing(path)
    return [path]


def source_name(source: SourceSettings) -> str:
    """The source's name, or its path's last part without endings."""
    return source.name or Path(source.path).name.split(".")[0].strip("*") or "source"


def _root(path: Path) -> Path:
    """The path up to its first part that is a pattern; all of it where there is none."""
    patterns = [place for place, part in enumerate(path.parts) if any(sign in part for sign in "*?[")]
    return Path(*path.parts[: patterns[0]]) if patterns and not path.exists() else path


def _below(folder: Path) -> list[Path]:
    inside = (
        file for file in folder.rglob("*") if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    return sorted(file for file in inside if file.is_file() and file.name != MANIFEST)


def _wanted(file: Path, source: SourceSettings) -> bool:
    path = file.as_posix()
    included = not source.include or any(_matches(path, pattern) for pattern in source.include)
    return included and not any(_matches(path, pattern) for pattern in source.exclude)


def _matches(path: str, pattern: str) -> bool:
    """Whether the end of a path, from any folder on, fits the pattern; * also stands for several folders."""
    return fnmatch(path, pattern) or fnmatch(path, "*/" + pattern)


def _nothing(path: Path) -> UserError:
    if path.is_dir():
        return UserError("this folder holds no file", where=str(path), do="put files into it, or name another")
    near = path.parent
    names = [file.name for file in near.iterdir()] if near.is_dir() else []
    close = difflib.get_close_matches(path.name, names, 3, 0.5)
    return UserError(
        "no such file or folder",
        where=str(path),
        do=f"did you mean {', '.join(close)}?"
        if close
        else f"look at what is in {near}"
        if names
        else f"{near} is not there either",
    )
