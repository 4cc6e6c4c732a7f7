"""The command `danlu evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from danlu.cli import app


@pytest.mark.parametrize(("language", "told"), [("en", "exact match, greeting (zh)"), ("zh", "结果：")])
def test_it_ends_with_the_scores_and_where_they_are(
    tmp_path: Path, reciting_model: Path, language: str, told: str
) -> None:
    questions = tmp_path / "questions.jsonl"
    question = {"question": "在吗？", "answer": "你好，Hello world👋！", "kind": "greeting", "language": "zh"}
    questions.write_text(json.dumps(question), "utf-8")
    recipe = tmp_path / "recipe.yaml"
    section = {"questions": str(questions), "prompts": []}
    content = {"name": "r", "out": str(tmp_path / "out"), "language": language, "evaluate": section}
    recipe.write_text(yaml.safe_dump(content), "utf-8")
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["evaluate", str(recipe), "--model", str(reciting_model)])
    assert result.exit_code == 0, result.output
    assert "100.0% ± " in result.stdout and told in result.stdout, result.stdout
    assert str(tmp_path / "out" / "evaluate-other" / "results.json") in result.stdout
