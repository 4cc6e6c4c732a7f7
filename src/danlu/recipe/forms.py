"""What a model loses and gains in fewer bits: one table over the forms in which it can be loaded."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from danlu.evaluate.agreement import InEngine, agreement
from danlu.infer.model import Model, Score, load
from danlu.infer.settings import SamplingSettings
from danlu.infer.voices import words_of
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.model.decoder import Decoder
from danlu.recipe.prompts import PROMPT_TOKENS, prompts_for
from danlu.tokens.tokenizer import Tokenizer

FORMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bf16": {"dtype": "bf16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
"""Each form, and how `load` is told it."""
_ANSWER, _RUNS = 48, 3


@dataclass(frozen=True)
class Row:
    """A form's measures. `memory` is that of the weights in bytes; `speed` tokens a second of one greedy answer."""

    form: str
    memory: int
    bits_per_byte: float
    kl: float
    top1: float
    greedy: float
    speed: float


def compare_forms(
    folder: Path, forms: Sequence[str] = tuple(FORMS), prompts: Path | None = None, out: Path | None = None
) -> list[Row]:
    """Loads a model in each form after the other, measures it against the first, and prints the table.

    Texts are those of the file `prompts`, or of the training's held-out rows, or our own. `out` gets the rows as JSON.
    Raises UserError for fewer than two forms or an unknown one, and as `load` does.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown or len(set(forms)) < 2:
        what = f"there is no form {unknown[0]!r}" if unknown else "one form alone is compared with nothing"
        raise UserError(what, where="--form", do=f"name two or more of {', '.join(FORMS)}")
    folder = resolve_checkpoint(folder)
    tokenizer = Tokenizer.load(words_of(folder))
    reference = load(folder, **FORMS[forms[0]])
    asked = prompts_for(folder, tokenizer, min(PROMPT_TOKENS, reference.engine.window - 1), prompts)
    rows = [_row(reference, reference, forms[0], asked)]
    for form in dict.fromkeys(forms[1:]):
        rows.append(_row(reference, load(folder, **FORMS[form]), form, asked))
    _print(rows, len(asked), folder)
    if out is not None:
        with atomic_file(out) as handle:
            json.dump({"model": str(folder), "rows": [asdict(row) for row in rows]}, handle, indent=1)
            handle.write("\n")
    return rows


def _row(reference: Model, model: Model, form: str, asked: list[list[int]]) -> Row:
    scores = model.scores([model.tokenizer.decode(ids) for ids in asked])
    nats, size = sum(score.nats for score in scores), sum(score.bytes for score in scores)
    found = agreement(InEngine(reference.engine), InEngine(model.engine), asked)
    bits = Score(nats, 0, size).bits_per_byte
    return Row(
        form, weight_bytes(model.decoder), bits, found.kl, found.top1, found.greedy_tokens, _speed(model, asked[0])
    )


def weight_bytes(decoder: Decoder) -> int:
    """What the weights of a decoder take, in the form in which they are held; a tied head counts once."""
    held = {tensor.data_ptr(): tensor.nbytes for tensor in [*decoder.parameters(), *decoder.buffers()]}
    return sum(held.values())


def _speed(model: Model, prompt: list[int]) -> float:
    """Tokens a second, the prompt's time included; the median of three answers after one that warms up."""
    took = []
    for _ in range(1 + _RUNS):
        start = time.perf_counter()
        (answer,) = model.engine.generate([prompt], SamplingSettings(max_tokens=_ANSWER))
        took.append((time.perf_counter() - start) / max(len(answer.ids), 1))
    return 1 / statistics.median(took[1:])


def _print(rows: list[Row], prompts: int, folder: Path) -> None:
    table = Table(
        "form", "weights", "bits per byte", "KL, nats", "top-1", "greedy tokens", "tokens/s",
        title=f"{folder}: {prompts} texts, against {rows[0].form}", title_justify="left",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.form,
            f"{row.memory / 1e6:,.1f} MB",
            f"{row.bits_per_byte:.4f}",
            f"{row.kl:.2e}",
            f"{row.top1:.2%}",
            f"{row.greedy:.1%}",
            f"{row.speed:,.1f}",
        )
    Console().print(table)
