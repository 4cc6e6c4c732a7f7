"""The commands beside `danlu clean RECIPE`: presets, their self-test, recipes of data-juicer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

clean_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Cleans records; every drop keeps its reason."
)


@clean_app.command("preset")
def preset(name: Annotated[Literal["zh", "en", "mixed", "dialogue"], typer.Argument(metavar="NAME")]) -> None:
    """Prints the steps of a preset (zh, en, mixed, dialogue), to be copied into a recipe and changed."""
    from danlu.recipe.presets import print_preset

    print_preset(name)


@clean_app.command("selftest")
def selftest(
    presets: Annotated[
        list[str] | None, typer.Argument(metavar="[PRESET]...", help="zh, en, mixed, dialogue; all when left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed writes other texts.")] = 0,
) -> None:
    """Proves presets on good and bad text in both languages: 95% of the good kept, 95% of the bad dropped."""
    from danlu.recipe.presets import print_selftest

    if not print_selftest(presets or [], seed):
        raise typer.Exit(1)


@clean_app.command("data-juicer")
def data_juicer(
    recipe: Annotated[Path, typer.Argument(metavar="FILE", help="A data-juicer recipe, with its `process:` list.")],
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="Clean into this folder; only show steps when left out.")
    ] = None,
    leave_out: Annotated[bool, typer.Option("--leave-out", help="Go on without unknown operators.")] = False,
) -> None:
    """Shows a data-juicer recipe as danlu's steps, says what they do otherwise, and runs them."""
    from danlu.recipe.data_juicer import run_data_juicer

    run_data_juicer(recipe, out, leave_out=leave_out)
