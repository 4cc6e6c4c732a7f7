"""Which files of a source tree its authors wrote: not what .gitignore names, not other people's packages."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.ledger.counts import Counts

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_OTHERS = {"node_modules", "bower_components", "vendor", "third_party", "site-packages", "__pycache__"}
_MADE = (".min.js", ".min.css", ".pb.go", "_pb2.py", "_pb2_grpc.py")


def tree_files(root: Path, counts: Counts) -> list[Path]:
    """The files below a folder, in the order of their names; those left out are counted. Links are not followed."""
    if not root.is_dir():
        return [root]
    return _below(root, [], counts)


def _below(folder: Path, above: list[tuple[Path, GitIgnoreSpec]], counts: Counts) -> list[Path]:
    rules = [*above, *_rules(folder)]
    found: list[Path] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            counts.add("left out: symbolic link", entry.path)
        elif entry.name in _OTHERS or entry.name.endswith(_MADE):
            counts.add("left out: other people's or generated code", entry.path)
        elif _ignored(path, is_folder, rules):
            counts.add("left out: named in .gitignore", entry.path)
        elif is_folder:
            found += _below(path, rules, counts)
        elif entry.is_file():
            found.append(path)
    return found


def _rules(folder: Path) -> list[tuple[Path, GitIgnoreSpec]]:
    from pathspec import GitIgnoreSpec

    file = folder / ".gitignore"
    if not file.is_file():
        return []
    patterns: list[Any] = []
    for line in file.read_text("utf-8", "replace").splitlines():
        with suppress(ValueError, re.error):  # no pattern: git passes over it too
            patterns += GitIgnoreSpec.from_lines([line]).patterns
    return [(folder, GitIgnoreSpec(patterns))]


def _ignored(path: Path, is_folder: bool, rules: list[tuple[Path, GitIgnoreSpec]]) -> bool:
    """Whether the nearest rule that says anything about it says so."""
    for folder, spec in reversed(rules):
        said = spec.check_file(path.relative_to(folder).as_posix() + "/" * is_folder).include
        if said is not None:
            return said
    return False
