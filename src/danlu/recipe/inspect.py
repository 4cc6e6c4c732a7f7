"""`danlu inspect`: what a recipe's training stages will train on, as numbers and token by token."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rich.console import Console

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob, training_stream
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.tokens.encode import Encoded
from danlu.tokens.inspect import inspect_examples
from danlu.tokens.stream import Stream
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.view import view, view_html

PAGE_ROWS = 20


def inspect_recipe(recipe: Recipe, stage: str | None, row: int | None, html: Path | None) -> None:
    """Packs the data and prints what is in the loss; with `row` that row's tokens, with `html` a page of the first.

    Raises UserError for a stage or a row that is not there.
    """
    sections = recipe.training()
    if stage is not None and stage not in sections:
        raise UserError(f"this recipe has no stage `{stage}` to inspect", do=f"it has {', '.join(sections) or 'none'}")
    run_recipe(recipe, until=f"pack/{stage}" if stage else "pack")
    wanted = [stage] if stage else list(sections)
    jobs = [check(TrainingJob, built.settings) for built in build_stages(recipe) if built.name in wanted]
    console = Console(highlight=False)
    pages: list[tuple[str, Encoded]] = []
    for job in jobs:
        stream, tokenizer = training_stream(job), Tokenizer.load(job.tokenizer)
        if row is not None:
            _print_row(stream, tokenizer, job.stage, row, console)
        else:
            _print_counts(stream, tokenizer, job.stage, console)
        pages += _rows(stream, job.stage)
    if html is not None:
        with atomic_file(html) as handle:
            handle.write(view_html(pages, Tokenizer.load(jobs[0].tokenizer), recipe.name))
        console.print(f"{len(pages)} rows: {html}")


def _print_counts(stream: Stream, tokenizer: Tokenizer, stage: str, console: Console) -> None:
    examples = (of.example(number) for of in stream.sets for number in range(len(of)))
    cutting = stream.length, stream.overlong, stream.answer_budget, stream.oldest_turns
    found = inspect_examples(examples, tokenizer, *cutting)
    table = found.table()
    table.title = f"{stage}: rows of {stream.length} tokens"
    console.print(table)


def _print_row(stream: Stream, tokenizer: Tokenizer, stage: str, row: int, console: Console) -> None:
    found = next(islice(stream.examples(row, 1), 1), None)
    if found is None:
        raise UserError(f"{stage} has {stream.total} rows, not {row + 1}", do="rows count from 0")
    for placed in found.documents:
        console.print(f"{stage}, row {row}, from {stream.sets[placed.source].name}", style="bold")
        console.print(view(placed.encoded, tokenizer))
    if found.reason:
        console.print(f"({found.reason})")


def _rows(stream: Stream, stage: str) -> list[tuple[str, Encoded]]:
    taken = stream.examples(0, min(PAGE_ROWS, stream.total))
    return [(f"{stage} {one.position}", placed.encoded) for one in taken for placed in one.documents]
