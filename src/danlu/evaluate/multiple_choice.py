"""Multiple choice by log-likelihood: which choice does the model hold for the likeliest continuation?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.evaluate.choice_sets import ChoiceSet, Question
from danlu.evaluate.rows import read_jsonl
from danlu.evaluate.statistics import at_chance, macro, standard_error

if TYPE_CHECKING:
    from danlu.infer.model import Model
    from danlu.ledger.progress import Bar

CHUNK = 64
"""Questions scored together: few enough to show progress, enough to fill batches."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as tokens: one (context, continuation) for each choice."""

    question: Question
    shots: int
    cut: int
    """Tokens of the context that had to go though no example was left."""
    merged: bool
    """Whether a choice changes how the context's end is split into tokens."""
    pairs: list[tuple[list[int], list[int]]]


def read_set(choice_set: ChoiceSet, folder: Path, limit: int | None) -> list[tuple[Question, list[Question]]]:
    """The questions with their subject's solved examples, at most `limit` of each subject, subjects in order."""
    examples: dict[str, list[Question]] = {}
    if choice_set.dev is not None:
        for row in read_jsonl(folder / f"{choice_set.dev}.jsonl.zst"):
            examples.setdefault(row["subject"], []).append(row)
    rows = sorted(read_jsonl(folder / f"{choice_set.test}.jsonl.zst"), key=_subject)
    return [
        (row, examples.get(subject, []))
        for subject, group in groupby(rows, key=_subject)
        for row in list(group)[:limit]
    ]


def multiple_choice(
    model: Model,
    choice_set: ChoiceSet,
    questions: Sequence[tuple[Question, Sequence[Question]]],
    shots: int,
    window: int,
    bar: Bar,
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Scores every choice of every question, in at most `window` tokens; gives the summary and one row a question.

    The summary holds `accuracy` (by summed log-probability, over all questions), `stderr`, `chance`, `at_chance`, `n`,
    the unweighted mean over subjects `macro` with `macro_stderr`, `subject` {name: {accuracy, n}}; for sets without
    letters also `accuracy_characters` and `accuracy_bytes` (log-probability over the choice's characters, or its UTF-8
    bytes) with errors. `shots` is what was asked for; `shots_dropped`, `cut` and `merged` count questions with fewer
    examples, with a context that was cut from the left, and with a token boundary that moved.
    """
    shots = shots if choice_set.lettered else 0
    asked: list[Asked] = []
    results: list[dict[str, Any]] = []
    for start in range(0, len(questions), CHUNK):
        part = [
            ask_choices(model, choice_set, row, examples[:shots], window)
            for row, examples in questions[start : start + CHUNK]
        ]
        scores = iter(model.engine.score([pair for item in part for pair in item.pairs]))
        for item in part:
            logps = [next(scores).logp for _ in item.pairs]
            results.append(_judge(choice_set, item, logps))
        asked += part
        bar.advance(len(part))
    summary = _summary(choice_set, results)
    counts = {
        "shots": shots,
        "shots_dropped": sum(
            item.shots < min(shots, len(examples)) for item, (_, examples) in zip(asked, questions, strict=True)
        ),
        "cut": sum(item.cut > 0 for item in asked),
        "merged": sum(item.merged for item in asked),
    }
    return {**summary, **counts}, iter(results)


def ask_choices(
    model: Model, choice_set: ChoiceSet, question: Question, examples: Sequence[Question], window: int
) -> Asked:
    """Encodes a question with as many whole examples, from the first on, as fit into the window.

    Context and choice are encoded together, so that the tokens are those that the model would see in one text. Where
    that changes how the context is split, all choices of the question are scored from the last token
    that they have in common.
    """
    tokenizer = model.tokenizer
    prefix = model.raw_prompt("")
    continuations = choice_set.continuations(question)
    for shots in range(len(examples), -1, -1):
        context = choice_set.context(question, examples[:shots])
        alone, *joint = tokenizer.encode_batch([context, *(context + choice for choice in continuations)])
        if shots == 0 or len(prefix) + max(map(len, joint)) <= window:
            break
    common = min(_common(alone, ids) for ids in joint)
    # The last token of a pair is only predicted and never read, so that it needs no place in the window.
    cut = max(0, len(prefix) + max(map(len, joint)) - 1 - window)
    pairs = [([*prefix, *ids[cut:common]], ids[common:]) for ids in joint]
    return Asked(question, shots, cut, common < len(alone), pairs)


def _common(alone: list[int], joint: list[int]) -> int:
    pairs = zip(alone, joint[:-1], strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(joint) - 1))


def _judge(choice_set: ChoiceSet, item: Asked, logps: list[float]) -> dict[str, Any]:
    question = item.question
    row = {
        "id": question.get("id"),
        "subject": _subject(question),
        "answer": question["answer"],
        "choices": len(logps),
        "logps": logps,
        "right": _best(logps) == question["answer"],
    }
    if not choice_set.lettered:
        for name, sizes in (
            ("characters", [len(choice) for choice in question["choices"]]),
            ("bytes", [len(choice.encode()) for choice in question["choices"]]),
        ):
            shares = [logp / max(size, 1) for logp, size in zip(logps, sizes, strict=True)]
            row[f"right_{name}"] = _best(shares) == question["answer"]
    return row


def _best(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _summary(choice_set: ChoiceSet, results: list[dict[str, Any]]) -> dict[str, Any]:
    n = len(results)
    accuracy = sum(row["right"] for row in results) / n
    chance = sum(1 / row["choices"] for row in results) / n
    summary: dict[str, Any] = {
        "accuracy": accuracy,
        "stderr": standard_error(accuracy, n),
        "chance": chance,
        "at_chance": at_chance(accuracy, chance, n),
        "n": n,
    }
    for name in () if choice_set.lettered else ("characters", "bytes"):
        share = sum(row[f"right_{name}"] for row in results) / n
        summary |= {f"accuracy_{name}": share, f"accuracy_{name}_stderr": standard_error(share, n)}
    by_subject = {name: [row["right"] for row in group] for name, group in groupby(results, key=_subject) if name}
    if by_subject:
        parts = {name: (sum(right) / len(right), len(right)) for name, right in by_subject.items()}
        summary["macro"], summary["macro_stderr"] = macro(list(parts.values()))
        summary["subject"] = {name: {"accuracy": share, "n": count} for name, (share, count) in parts.items()}
    return summary


def _subject(row: dict[str, Any]) -> str:
    return str(row.get("subject", ""))
