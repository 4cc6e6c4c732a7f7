"""Benchmarks say how they are run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", ["training.py", "breakdown.py"])
def test_help_prints_what_the_script_says_of_itself(name: str) -> None:
    said = subprocess.run([sys.executable, str(BENCHMARKS / name), "--help"], capture_output=True, text=True)
    written = ast.get_docstring(ast.parse((BENCHMARKS / name).read_text("utf-8")), clean=False)
    assert (said.returncode, said.stderr, said.stdout) == (0, "", f"{written}\n")
