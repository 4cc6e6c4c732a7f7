"""How often a reward model prefers the chosen answer of held-out pairs, by source and language, and by how much."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.evaluate.rows import language_of
from danlu.infer.reward import rewards
from danlu.ledger.errors import UserError
from danlu.tokens.shards import TokenSet

if TYPE_CHECKING:
    from danlu.infer.model import Model
    from danlu.ledger.progress import Bar

CHUNK, BINS = 16, 20
LANGUAGE_TOKENS = 512


def preference(
    model: Model, sets: list[TokenSet], most: int | None, window: int, bar: Bar
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Accuracy with its standard error, and the margins (reward of the chosen less that of the rejected answer).

    A pair of equal rewards is half right. At most `most` pairs of each set are read; one that cannot be cut to the
    window is counted as `left_out`. Gives {accuracy, stderr, chance, n, margin, margin_sd, histogram: {edges, counts},
    left_out, source: {…}, language: {…}} and a row a pair. Raises UserError for a set of another tokenizer.
    """
    rows: list[dict[str, Any]] = []
    left_out = 0
    for token_set in sets:
        if token_set.manifest["tokenizer"] != model.tokenizer.fingerprint:
            raise UserError(
                "this set was packed with another tokenizer than the model's",
                where=str(token_set.folder),
                do="pack the held-out pairs with the model's tokenizer",
            )
        count = min(len(token_set), most or len(token_set))
        for start in range(0, count, CHUNK):
            examples = [token_set.example(number) for number in range(start, min(start + CHUNK, count))]
            found = rewards(model, [document for example in examples for document in example.documents], window)
            for example, (chosen, rejected) in zip(examples, found.reshape(-1, 2).tolist(), strict=True):
                if math.isnan(chosen) or math.isnan(rejected):
                    left_out += 1
                    continue
                text = model.tokenizer.decode(example.documents[0].tokens[:LANGUAGE_TOKENS].tolist())
                rows.append(
                    {
                        "source": token_set.name,
                        "language": language_of(text),
                        "chosen": chosen,
                        "rejected": rejected,
                        "margin": chosen - rejected,
                    }
                )
            bar.advance(len(examples))
    values: dict[str, Any] = {**_values(rows), "histogram": _histogram(rows), "left_out": left_out, "chance": 0.5}
    for group in ("source", "language"):
        names = sorted({row[group] for row in rows})
        values[group] = {name: _values([row for row in rows if row[group] == name]) for name in names}
    return values, rows


def _values(rows: list[dict[str, Any]]) -> dict[str, float]:
    margins = np.array([row["margin"] for row in rows], np.float64)
    if not len(margins):
        return {"accuracy": math.nan, "stderr": math.nan, "n": 0, "margin": math.nan, "margin_sd": math.nan}
    right = np.where(margins == 0, 0.5, margins > 0)
    accuracy = float(right.mean())
    error = math.sqrt(accuracy * (1 - accuracy) / len(margins))
    return {
        "accuracy": accuracy,
        "stderr": error,
        "n": len(margins),
        "margin": float(margins.mean()),
        "margin_sd": float(margins.std()),
    }


def _histogram(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Counts of margins between `edges`, which lie even about 0."""
    margins = np.array([row["margin"] for row in rows], np.float64)
    reach = float(np.abs(margins).max(initial=0.0)) or 1.0
    counts, edges = np.histogram(margins, bins=BINS, range=(-reach, reach))
    return {"edges": edges.tolist(), "counts": counts.tolist()}
