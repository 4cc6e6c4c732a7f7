"""The same prompts to every checkpoint, answered greedily: what a number does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.evaluate.repetition import Answer, is_loop


def side_by_side(prompts: Sequence[str], answers: Sequence[Answer], form: str) -> dict[str, Any]:
    """One model's column: `form` (chat or raw) and, for each prompt, the answer, whether it ended by itself and whether
    it ends in a loop on tokens or characters."""
    return {
        "form": form,
        "answers": [
            {
                "prompt": prompt,
                "answer": answer.text,
                "ended": answer.ended,
                "loops": is_loop(answer.tokens) or is_loop(answer.text.rstrip()),
            }
            for prompt, answer in zip(prompts, answers, strict=True)
        ],
    }


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of prompts × models from {model: `side_by_side`}."""
    prompts = list(dict.fromkeys(item["prompt"] for column in results.values() for item in column["answers"]))
    cells = {model: {item["prompt"]: item for item in column["answers"]} for model, column in results.items()}
    head = ["", *(f"{model} ({column['form']})" for model, column in results.items())]
    rows = [[prompt, *(_cell(column.get(prompt)) for column in cells.values())] for prompt in prompts]
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_escaped, line)) + " |\n" for line in lines)


def _cell(item: dict[str, Any] | None) -> str:
    if item is None:
        return ""
    return item["answer"] + (" 🔁" if item["loops"] else "") + ("" if item["ended"] else " …")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
