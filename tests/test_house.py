"""The house rules that a machine can check: who imports whom, what settings may load, how long a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "danlu"
ROOMS = [
    "config",
    "ledger",
    "text",
    "tokens",
    "model",
    "infer",
    "evaluate",
    "train",
    "report",
    "serve",
    "recipe",
    "cli",
]
FOUNDATION = {"config", "ledger"}  # these two may use each other's errors and types
MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "danlu" and parts[1] in ROOMS else None


def imported(path: Path) -> set[str]:
    """The danlu modules that a file imports anywhere, those for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("danlu.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(SOURCE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for name in imported(path):
        room = room_of(name)
        if room is None or room == own or {room, own} <= FOUNDATION:
            continue
        assert ROOMS.index(room) < ROOMS.index(own), f"{path.relative_to(SOURCE)} imports {name}, which lies below it"


@pytest.mark.parametrize("path", [*MODULES, *SOURCE.parents[1].glob("tests/**/*.py")], ids=str)
def test_a_file_over_400_lines_is_two_things(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("module", ["danlu", "danlu.cli", "danlu.recipe.settings"])
def test_settings_and_help_load_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "pyarrow", "matplotlib")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
