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


@clean_app.command("train-classifier")
def train_classifier(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist yet.")],
    labelled: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LABELLED]...", help="Files with a text and a label a row; .txt as fastText has them."),
    ] = None,
    good: Annotated[list[Path] | None, typer.Option(help="A source of good records; may come again.")] = None,
    bad: Annotated[list[Path] | None, typer.Option(help="A source of bad records, such as a `dropped` folder.")] = None,
    test: Annotated[list[Path] | None, typer.Option(help="Labelled files to test on, in the place of a share.")] = None,
    text: Annotated[str, typer.Option(help="The column of the text.")] = "text",
    label: Annotated[str, typer.Option(help="The column of the label.")] = "label",
    held_out: Annotated[float, typer.Option(help="The share to test on.")] = 0.1,
    precision: Annotated[float, typer.Option(help="For which the thresholds are chosen.")] = 0.95,
    epochs: Annotated[int, typer.Option(min=1, help="How often each text is learned from.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the order of the texts.")] = 0,
    language: Annotated[Literal["en", "zh"], typer.Option(help="Of the tables and the page.")] = "en",
) -> None:
    """Trains a classifier for the step `classifier`, and tells its precision and recall by label and threshold."""
    from danlu.recipe.classifier import Fields, Training
    from danlu.recipe.classifier import train_classifier as train

    fields = Fields(text, label)
    training = Training(labelled or [], good or [], bad or [], test or [], fields, held_out, precision, epochs, seed)
    train(training, out, language)
