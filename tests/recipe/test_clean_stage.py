"""In a recipe too a moved threshold measures nothing again, though results of other settings are parked."""

from __future__ import annotations

import json
from pathlib import Path

from danlu.config import check
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.text.readers import read_rows


def cleaned(folder: Path, least: int) -> int:
    """How many records are kept with this threshold."""
    steps = [{"op": "normalise"}, {"op": "length", "min": least}, {"op": "language"}, {"op": "exact_dedup"}]
    sources = [{"path": "raw.jsonl", "name": "raw"}]
    section = {"sources": sources, "steps": steps, "workers": 1}
    recipe = {"name": "thresholds", "out": str(folder / "out"), "data": str(folder), "clean": section}
    run_recipe(check(Recipe, recipe), until="clean")
    return len(list(read_rows(folder / "out" / "clean" / "documents")))


def test_a_moved_threshold_measures_nothing(tmp_path: Path) -> None:
    rows = [{"text": "好" * n} for n in range(1, 21)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = tmp_path / "out" / "clean" / "tasks" / "measure"
    assert cleaned(tmp_path, 3) == 18
    assert ledger.exists()
    assert cleaned(tmp_path, 5) == 16
    assert not ledger.exists()
    assert cleaned(tmp_path, 3) == 18
    assert cleaned(tmp_path, 9) == 12
    assert not ledger.exists()
    page = tmp_path / "out" / "clean" / "report.html"
    assert "<h1>thresholds</h1>" in page.read_text("utf-8"), "the page is called as the recipe"
