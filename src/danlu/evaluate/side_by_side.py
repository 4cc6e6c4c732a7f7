"""The same prompts to every checkpoint, answered greedily: what a number does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.evaluate.repetition import Answer, is_loop
from danlu.text.records import Message


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, the chat that it ends, and for one out of data the answer and the source there."""

    prompt: str
    messages: Sequence[Message]
    reference: str | None = None
    source: str | None = None


def as_asked(prompt: str) -> Asked:
    """A prompt that is the whole chat."""
    return Asked(prompt, [{"role": "user", "content": prompt}])


def side_by_side(asked: Sequence[Asked], answers: Sequence[Answer], form: str) -> dict[str, Any]:
    """One model's column: `form` (chat or raw) and, for each prompt, the answer, whether it ended by itself and whether
    it ends in a loop on tokens or characters; reference and source where there are."""
    return {
        "form": form,
        "answers": [
            {
                "prompt": one.prompt,
                "answer": answer.text,
                "ended": answer.ended,
                "loops": is_loop(answer.tokens) or is_loop(answer.text.rstrip()),
                **({} if one.reference is None else {"reference": one.reference, "source": one.source}),
            }
            for one, answer in zip(asked, answers, strict=True)
        ],
    }


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of prompts × models from {model: `side_by_side`}; what the data answer comes first."""
    references = {item["prompt"]: item.get("reference") for column in results.values() for item in column["answers"]}
    cells = {model: {item["prompt"]: item for item in column["answers"]} for model, column in results.items()}
    given = ["data"] if any(text is not None for text in references.values()) else []
    head = ["", *given, *(f"{model} ({column['form']})" for model, column in results.items())]
    rows = [
        [prompt, *(text or "" for _ in given), *(_cell(column.get(prompt)) for column in cells.values())]
        for prompt, text in references.items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_escaped, line)) + " |\n" for line in lines)


def _cell(item: dict[str, Any] | None) -> str:
    if item is None:
        return ""
    return item["answer"] + (" 🔁" if item["loops"] else "") + ("" if item["ended"] else " …")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
