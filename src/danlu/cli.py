"""The command `danlu`: one thin function a command."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from danlu.infer.settings import QUANTIZE, Quantize
from danlu.recipe.clean_commands import clean_app
from danlu.recipe.export_command import ModelPath, export, forms
from danlu.recipe.training_commands import TRAINING_COMMANDS

if TYPE_CHECKING:
    from danlu.config import Settings
    from danlu.recipe.settings import Recipe

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Raw Chinese and English text to a served chat model, with proof of what each step did.

The way through: write a recipe (recipes/tiny.yaml is the smallest), look before you spend with `run --dry-run`,
`inspect` and `doctor`, then `run` it; a second run does only what has changed. After that `chat` with it, `serve` it,
`export` it, and `report` on any number of runs.

从原始中英文文本到可用的对话模型。先写一份配方（最小的是 recipes/tiny.yaml），用 `run --dry-run`、`inspect`、`doctor`
先看后跑，再 `run`；再次运行只做有变化的部分。之后可以 `chat`、`serve`、`export`、`report`。""",
)
config_app = typer.Typer(no_args_is_help=True, help="About settings themselves.")
app.add_typer(config_app, name="config")

RECIPE = typer.Argument(metavar="RECIPE", help="A recipe's YAML file.")
OVERRIDES = typer.Argument(
    metavar="[KEY=VALUE]...", help="Settings that go before the file's, such as sft.train.epochs=1."
)
SMOKE = typer.Option("--smoke", help="The same stages and code with a tiny shape, short rows and few steps.")


RecipePath = Annotated[Path, RECIPE]
Overrides = Annotated[list[str] | None, OVERRIDES]
Smoke = Annotated[bool, SMOKE]


class StageGroup(TyperGroup):
    """A stage's command that has commands of its own beside it: what names none of them is a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in {*self.commands, *ctx.help_option_names}
        parsed: list[str] = super().parse_args(ctx, args if named else [_STAGE, *args])
        return parsed


_STAGE = "stage"


class _ListsSettings:
    places: tuple[str, ...] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:  # typer's own click has no public types
        super().format_help(ctx, formatter)  # type: ignore[misc]
        for place in self.places:
            target, _, prefix = place.partition(" ")
            _print_settings(_named(target), prefix)


def with_settings(*places: str, base: type = TyperCommand) -> Any:
    """A command whose help lists every setting of the classes at `places` ("module:Class" or "module:Class prefix")."""
    return type(base.__name__, (_ListsSettings, base), {"places": places})


@app.command(cls=with_settings("danlu.recipe.settings:Recipe"))
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    smoke: Smoke = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done: sizes, memory, tokens, time.")
    ] = False,
) -> None:
    """Brings every stage of a recipe up to date."""
    loaded = _recipe(recipe, overrides, smoke)
    if dry_run:
        from danlu.recipe.plan import print_plan

        print_plan(loaded)
        return
    from danlu.recipe.run import run_recipe

    run_recipe(loaded)


def _stage_command(name: str, meaning: str, *places: str, beside: typer.Typer | None = None) -> None:
    """Adds the command that brings one stage, and what it needs, up to date; `beside` holds other commands of it."""

    def command(recipe: RecipePath, overrides: Overrides = None, smoke: Smoke = False) -> None:
        from danlu.recipe.run import run_recipe

        run_recipe(_recipe(recipe, overrides, smoke), until=name)

    if beside is None:
        app.command(name, help=meaning, cls=with_settings(*places))(command)
    else:
        beside.command(_STAGE, help=f"{meaning} `{_STAGE}` may be left out.", cls=with_settings(*places))(command)
        app.add_typer(beside, name=name, help=meaning, cls=with_settings(*places, base=StageGroup))


_DATA = "danlu.tokens.settings:DataSettings"
_stage_command("sample", "Writes the generated bilingual world.", "danlu.text.sample.settings:SampleSettings sample.")
_CLEAN = "danlu.text.settings:CleanSettings clean."
app.add_typer(clean_app, name="clean", cls=with_settings(_CLEAN, base=StageGroup))


@clean_app.command(_STAGE, cls=with_settings(_CLEAN))
def clean(
    recipe: RecipePath,
    overrides: Overrides = None,
    smoke: Smoke = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="From a hundredth of the text: time, memory, disk, what each step keeps.")
    ] = False,
) -> None:
    """Cleans the recipe's records. `stage` may be left out."""
    loaded = _recipe(recipe, overrides, smoke)
    if dry_run:
        from danlu.recipe.clean_plan import print_clean_plan

        print_clean_plan(loaded)
        return
    from danlu.recipe.run import run_recipe

    run_recipe(loaded, until="clean")


tokenizer_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
_TOKENIZER = "danlu.tokens.settings:TokenizerSettings tokenizer."
_stage_command("tokenizer", "Trains or loads the tokenizer.", _TOKENIZER, beside=tokenizer_app)
_stage_command("pack", "Turns records into token shards.", f"{_DATA} pretrain.data.")
for _name, _command in TRAINING_COMMANDS.items():
    _stage_command(_name, _command.meaning, f"{_DATA} {_name}.data.", f"{_command.settings} {_name}.train.")


@app.command(cls=with_settings(f"{_DATA} sft.data."))
def inspect(
    recipe: RecipePath,
    overrides: Overrides = None,
    smoke: Smoke = False,
    stage: Annotated[
        str | None, typer.Option(help="A training stage, such as sft; all that the recipe has when left out.")
    ] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Show this row's tokens coloured: in the loss or not.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the token view of the first rows to this page.")] = None,
) -> None:
    """Shows what is trained on: tokens in the loss by role and file, lost turns, untrained stops, lengths."""
    from danlu.recipe.inspect import inspect_recipe

    inspect_recipe(_recipe(recipe, overrides, smoke), stage, row, html)


@app.command(cls=with_settings("danlu.evaluate.settings:EvaluateSettings evaluate."))
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    smoke: Smoke = False,
    model: Annotated[list[Path] | None, typer.Option(help="Measure these, not those the recipe trained.")] = None,
) -> None:
    """Measures the models of a recipe, or any others, by its `evaluate` section."""
    from danlu.recipe.run import evaluate_models, run_recipe
    from danlu.recipe.summary import print_results

    loaded = _recipe(recipe, overrides, smoke)
    if model:
        evaluate_models(loaded, model)
    else:
        run_recipe(loaded, until="evaluate")
    print_results(loaded, loaded.out / ("evaluate-other" if model else "evaluate") / "results.json")


@app.command(cls=with_settings("danlu.infer.settings:SamplingSettings"))
def generate(
    model: ModelPath,
    prompts: Annotated[Path, typer.Argument(help="Prompts: .txt, one a line; or .jsonl with `prompt` or `messages`.")],
    out: Annotated[Path, typer.Argument(help="The .jsonl file of answers; an unfinished one is gone on with.")],
    overrides: Overrides = None,
    quantize: Annotated[Quantize | None, typer.Option(help=QUANTIZE)] = None,
) -> None:
    """Answers a file of prompts."""
    from danlu.infer.generate import generate_file
    from danlu.infer.model import load

    sampling = _given("danlu.infer.settings:SamplingSettings", overrides)
    generate_file(load(model, quantize=quantize), prompts, out, sampling)


@app.command(cls=with_settings("danlu.infer.settings:ChatSettings"))
def chat(model: ModelPath, overrides: Overrides = None) -> None:
    """Chats in the terminal; /help inside tells more."""
    from danlu.infer.chat import chat as talk
    from danlu.infer.model import load

    settings: Any = _given("danlu.infer.settings:ChatSettings", overrides)
    adapters = {str(settings.adapter): settings.adapter} if settings.adapter else {}
    talk(load(model, quantize=settings.quantize, adapters=adapters, template=settings.template), settings)


@app.command(cls=with_settings("danlu.serve.settings:ServeSettings"))
def serve(model: ModelPath, overrides: Overrides = None) -> None:
    """Serves the OpenAI API and a chat page, on this machine only unless told otherwise."""
    from danlu.infer.model import load
    from danlu.serve.app import serve as serve_model

    settings: Any = _given("danlu.serve.settings:ServeSettings", overrides)
    loaded = load(model, quantize=settings.quantize, adapters=settings.adapters, template=settings.template)
    serve_model(loaded, settings)


app.command()(export)
app.command()(forms)


@tokenizer_app.command("inspect")
def inspect_tokenizers(
    tokenizers: Annotated[
        list[Path],
        typer.Argument(metavar="TOKENIZER...", help="Folders, tokenizer.json files or SentencePiece .model files."),
    ],
    text: Annotated[
        list[Path] | None, typer.Option(help="A file or folder of text to measure on, or several; else generated text.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write all of it to this page too.")] = None,
    language: Annotated[Literal["en", "zh"], typer.Option(help="Of the tables.")] = "en",
) -> None:
    """Compares tokenizers: bytes per token, splitting, junk in the vocabulary, and whether text comes back."""
    from danlu.recipe.tokenizers import inspect_tokenizers as inspect_all

    inspect_all(tokenizers, text or [], html, language)


@tokenizer_app.command("extend")
def extend_tokenizer(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="A tokenizer's folder; with a model in it, the model grows too.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist yet.")],
    texts: Annotated[
        list[Path] | None, typer.Option("--with", help="A file or folder of text to learn tokens from, or several.")
    ] = None,
    size: Annotated[int, typer.Option(help="Tokens to learn from the text.")] = 0,
    words: Annotated[Path | None, typer.Option(help="A file with one word a line, each to be one token.")] = None,
) -> None:
    """Adds tokens; those that were there keep their ids."""
    from danlu.recipe.tokenizers import extend_tokenizer as extend

    extend(base, out, texts or [], words, size)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders or published training logs.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the page; by default the first run's `report`.")] = None,
    language: Annotated[Literal["en", "zh"], typer.Option(help="Of the page.")] = "en",
) -> None:
    """Draws runs into one page, several over each other; of a `clean` folder, its data report."""
    from danlu.report.data.report import TRAIL, write_data_report
    from danlu.report.report import report as write_report

    if len(runs) == 1 and (runs[0] / TRAIL).is_file():
        print(write_data_report(runs[0], language, out))
        return
    beside = runs[0] if runs[0].is_dir() else Path()
    print(write_report(runs, out or beside / "report", language))


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its clean folder.")],
    record: Annotated[
        str, typer.Argument(metavar="ID", help="FILE:LINE, a content hash (16 hex digits), or a piece of the text.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tells the life of a record: each step, what dropped it, its twin, or the training steps that saw it."""
    from danlu.recipe.explain import explain as tell

    tell(run, record, as_json)


@app.command()
def sets(
    folder: Annotated[Path, typer.Argument(help="Where token sets are stored; `token-sets` beside the runs.")],
    clear: Annotated[bool, typer.Option("--clear", help="Remove them; runs that need one again encode it.")] = False,
    unused: Annotated[float, typer.Option(metavar="DAYS", help="Clear those only that no run used so long.")] = 0,
) -> None:
    """Lists the encoded sources that runs share, and clears them."""
    from danlu.recipe.sets import show_sets

    show_sets(folder, unused if clear else None)


@app.command()
def doctor(
    recipe: RecipePath,
    overrides: Overrides = None,
    smoke: Smoke = False,
    gpu: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=1, help="Only say what training takes on a GPU of this size: no data is read."),
    ] = None,
) -> None:
    """What is missing; memory part by part; the largest micro-batch; proof that packing, resuming … change nothing."""
    from danlu.recipe.doctor import examine, plan_for

    loaded = _recipe(recipe, overrides, smoke)
    if not (plan_for(loaded, gpu) if gpu else examine(loaded)):
        raise typer.Exit(1)


@config_app.command("schema")
def schema() -> None:
    """Prints the JSON schema of a recipe, for editors."""
    from danlu.recipe.settings import Recipe

    print(json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=1))


def main() -> None:
    """Runs the command line; a user's mistake is told without a traceback."""
    from danlu.ledger.errors import Stopped, UserError
    from danlu.ledger.signals import STOPPING

    # Threads of torch that wait awake starve each other beside another busy program (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _end)
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding shows ? for what it does not have
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        app()
    except (UserError, Stopped) as error:
        print(f"danlu: {error}", file=sys.stderr)
        sys.exit(128 + error.asked if isinstance(error, Stopped) else 2)
    except (SystemExit, KeyboardInterrupt) as ended:
        code = getattr(ended, "code", 130)  # typer makes an exit of the first Ctrl-C
        if code in (130, 143):
            print("danlu: interrupted; the same command goes on from what was finished", file=sys.stderr)
        sys.exit(code)
    finally:
        for number in STOPPING:  # whoever asks again while Python ends does not wait for it
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: object) -> None:
    """As an exception SIGTERM has everything on its way tidied up: half-written files, folders, processes."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def _recipe(path: Path, overrides: list[str] | None, smoke: bool) -> Recipe:
    from danlu.recipe.settings import load_recipe
    from danlu.recipe.smoke import smoked

    loaded = load_recipe(path, overrides)
    return smoked(loaded) if smoke else loaded


def _given(target: str, overrides: list[str] | None) -> Any:
    from danlu.config import settings_from

    return settings_from(_named(target), overrides or [])


def _named(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _print_settings(cls: type[Settings], prefix: str) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from danlu.config import describe

    columns = [Column(name, overflow="fold") for name in ("key", "type", "default", "meaning")]  # keys are copied
    table = Table(*columns, title="Settings", title_justify="left", show_lines=False)
    for row in describe(cls, prefix):
        table.add_row(*map(Text, row))
    Console().print(table)


if __name__ == "__main__":
    main()
