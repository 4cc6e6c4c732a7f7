"""What a recipe names and this machine does not have: all of it at once, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.recipe.build import ORDER
from danlu.recipe.scorers import with_folders
from danlu.recipe.settings import Recipe
from danlu.text.files import data_files, source_files
from danlu.text.settings import SourceSettings, Step

CLUSTER = {"slurm": ("datatrove",), "ray": ("datatrove", "ray")}


def missing(recipe: Recipe) -> list[UserError]:
    """Sources, word lists, test sets, tokenizers, models and packages; what a stage of the recipe makes is none."""
    files: list[Path] = []
    found = [*_sources(recipe, files), *_steps(recipe)]
    wanted: dict[str, tuple[str, ...]] = (
        {"pdf": ("pypdf",)} if any(file.suffix.lower() == ".pdf" for file in files) else {}
    )
    if recipe.clean:
        wanted["cluster"] = CLUSTER.get(recipe.clean.executor, ())
    for section in recipe.training().values():
        wanted |= {tracker: (tracker,) for tracker in section.train.trackers}
    for extra, packages in wanted.items():
        found += [
            UserError(f"{package} is not installed", do=f'pip install "danlu[{extra}]"')
            for package in packages
            if find_spec(package) is None
        ]
    return found


def _sources(recipe: Recipe, files: list[Path]) -> Iterator[UserError]:
    """Sources without a file; the files of the others are added to `files`."""
    given: list[SourceSettings] = [*(recipe.clean.sources if recipe.clean else [])]
    if recipe.tokenizer and recipe.tokenizer.train:
        given += recipe.tokenizer.train.sources or []
    given += [source for section in recipe.training().values() for source in section.data.sources]
    for path, source in {source.path: source for source in given}.items():
        if not _of_stage(path):
            try:
                there = source.model_copy(update={"path": str(recipe.data / path)})
                files += source_files(there, None, Counts())
            except UserError as error:
                yield error


def _steps(recipe: Recipe) -> Iterator[UserError]:
    """Files of cleaning steps."""
    if recipe.clean is None:
        return
    tokenizer = recipe.tokenizer.path if recipe.tokenizer else None
    for step in with_folders(recipe.clean, tokenizer, lambda path: None).steps:
        folders = [(name, getattr(step, name)) for name in step.folders]
        for name, folder in folders:
            if folder is None:
                yield UserError(f"the step {step.called} needs a {name}", do=f"write `{name}: FOLDER` into the step")
            elif not _of_stage(folder) and not Path(folder).exists():
                yield UserError(
                    f"the {name} of the step {step.called} is missing",
                    where=folder,
                    do="name where it lies",
                )
        if all(folder is not None and not _of_stage(folder) and Path(folder).exists() for _, folder in folders):
            yield from _files(step)


def _files(step: Step) -> Iterator[UserError]:
    try:
        files = step.files()
    except UserError as error:
        yield error
        return
    for file in files:
        try:
            data_files(Path(file))
        except UserError as error:
            yield UserError(
                f"a file of the step {step.called} is missing: {error.what}", where=error.where, do=error.do
            )


def _of_stage(path: str) -> bool:
    return path.partition(":")[0] in ORDER and ":" in path
