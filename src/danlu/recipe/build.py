"""From a recipe to its stages: who needs whom, and with which files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from danlu.config import Settings
from danlu.evaluate.settings import EvaluateSettings
from danlu.ledger.checkpoints import EPOCH, has_state, lacking_weights, list_checkpoints, resolve_checkpoint
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.recipe import stages
from danlu.recipe.graph import Stage
from danlu.recipe.job import TrainingJob
from danlu.recipe.scorers import scorers_of, stages_named, with_folders
from danlu.recipe.settings import TRAINING, Recipe, TrainingStage
from danlu.recipe.stand_in import STAND_IN, StandInSettings, write_stand_in
from danlu.report.words import Language
from danlu.text.files import source_files
from danlu.text.settings import SourceSettings
from danlu.text.steps.base import Kind
from danlu.tokens.index import TOKEN_SETS, token_sets_there
from danlu.tokens.settings import StageName

COLUMNS = ".columns"  # what cleaning measured: it stays when results of other settings are parked
ENCODING = ("data.workers", "data.task_bytes")
FREE = (
    *ENCODING,
    *(f"train.{name}" for name in ("resume", "rows", "recompute", "compile", "sharding", "max_bad_steps", "limits")),
    *(f"train.{name}" for name in ("by", "evaluate_every", "trackers")),
    *(f"train.save.{name}" for name in ("every", "keep_last", "keep_best", "weights_only")),
)
"""Settings of training that leave the weights as they are, rounding aside. `save.every_epoch` and `save.load_best` are
not among them, as they say which weights there are for later stages.
"""
STRUCTURE = "tune"
"""The one `train` setting that must agree with the checkpoint from which an unfinished run goes on."""
ORDER = ("sample", STAND_IN, "clean", "tokenizer", *TRAINING, "evaluate")


def build_stages(recipe: Recipe) -> list[Stage]:
    """The recipe's stages, each after all that it needs; packing comes right before the stage that it is for.

    Raises UserError for a source that names a stage which the recipe does not have.
    """
    return list(_Builder(recipe).build().values())


class _Builder:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.stages: dict[str, Stage] = {}

    def build(self) -> dict[str, Stage]:
        recipe = self.recipe
        if recipe.sample:
            world = recipe.sample
            self._add("sample", world, lambda out: stages.sample(world, out))
        if recipe.stand_in and recipe.model and recipe.model.from_folder == recipe.out / STAND_IN:
            self._add_stand_in(recipe.stand_in)
        after = _cleaned_after(recipe)
        if after is None:
            self._add_clean()
        if recipe.tokenizer:
            self._add_tokenizer()
        if after == "tokenizer":
            self._add_clean()
        for name in TRAINING:
            if section := recipe.training().get(name):
                self._add_training(name, section)
            if name == after:
                self._add_clean()
        if recipe.evaluate:
            self._add_evaluation(recipe.evaluate)
        return self.stages

    def _add_stand_in(self, settings: StandInSettings) -> None:
        stage, section = next(iter(self.recipe.training().items()))
        kind: Kind = "document" if stage == "pretrain" else "conversation" if stage == "sft" else "preference"
        sources, seed = self._resolved(STAND_IN, section.data.sources), self.recipe.seed
        self._add(
            STAND_IN,
            {"stand_in": settings, "sources": sources, "seed": seed},
            lambda out: write_stand_in(settings, sources, kind, seed, out),
        )

    def _add_clean(self) -> None:
        recipe = self.recipe
        if recipe.clean is None:
            return
        tokenizer = recipe.tokenizer.path if recipe.tokenizer else None
        settings = with_folders(recipe.clean, tokenizer, lambda path: self._stage_place("clean", path))
        settings = settings.model_copy(update={"sources": self._resolved("clean", recipe.clean.sources)})
        scorers_of(settings)  # what a step lacks is said before any work
        folders = [Path(getattr(step, name)) for step in settings.steps for name in step.folders]
        lists = [Path(file) for step in settings.steps if not step.folders for file in step.files()]
        for folder in folders:
            _require_folder(folder, self._owner(folder))
        self._add(
            "clean",
            settings,
            lambda out: stages.clean(settings, out, recipe.out / COLUMNS, recipe.language),
            free=("workers", "executor", "cluster"),
            needs=[owner for folder in folders if (owner := self._owner(folder))],
            files=[path for path in (*folders, *lists) if not self._inside(path)],
        )

    def _add_tokenizer(self) -> None:
        settings = self.recipe.tokenizer
        assert settings is not None
        if settings.train is not None:
            read = settings.train.sources or (self.recipe.pretrain.data.sources if self.recipe.pretrain else [])
            sources = self._resolved("tokenizer", read)
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"sources": sources})})
        path = Path(settings.path) if settings.path else None
        owner = self._owner(path) if path else None
        self._add(
            "tokenizer",
            settings,
            lambda out: stages.tokenizer(settings, out),
            needs=[owner] if owner else [],
            files=[path] if path and not owner else [],
        )

    def _add_training(self, name: StageName, section: TrainingStage) -> None:
        recipe = self.recipe
        tokenizer = recipe.out / "tokenizer" if recipe.tokenizer else _start_folder(recipe, name)
        data = section.data.model_copy(update={"sources": self._resolved(name, section.data.sources)})
        needs = ["tokenizer"] if recipe.tokenizer else []
        packed = f"pack/{name}"
        terminator = recipe.tokenizer.terminator if recipe.tokenizer else None
        store, epochs = recipe.token_sets or recipe.out.parent / TOKEN_SETS, section.train.epochs
        self._add(
            packed,
            {"data": data},
            lambda out: stages.pack(data, name, tokenizer, out, store, epochs, terminator=terminator),
            needs=needs,
            free=ENCODING,
            lacks=lambda language: _lacking_sets(recipe.out / packed, epochs, language),
        )
        start = recipe.start_of(name)
        job = TrainingJob(
            stage=name,
            train=section.train,
            data=data,
            packed=self.stages[packed].folder,
            tokenizer=tokenizer,
            model=None if start else recipe.model,
            start=start,
            seed=recipe.seed,
        )
        owner = self._owner(Path(start.partition(EPOCH)[0])) if start else None
        needs += [owner] if owner else []
        folder, resume = recipe.out / name, section.train.resume
        named = [f"train.{field}" for field in type(section.train).model_fields if field != STRUCTURE]
        self._add(
            name,
            job,
            lambda out: stages.train(job, out, recipe.processes),
            needs=[packed, *needs],
            free=FREE,
            open=tuple(named) if resume == "auto" else (),
            goes_on=resume not in ("auto", "never"),
            instead=f"{name}.train.resume=healthy" if any(map(has_state, list_checkpoints(folder))) else "",
            lacks=lambda language: lacking_weights(folder, language),
            product=name not in {recipe.stage_before(other) for other in recipe.training()},
        )

    def _add_evaluation(self, settings: EvaluateSettings) -> None:
        folders: dict[str, Path] = {name: self.stages[name].folder for name in self.recipe.training()}
        base = self.recipe.model.from_folder if settings.base and self.recipe.model else None
        measured = {"base": base, **folders} if base else folders
        # What is held out of kto has bad answers in it, by which no model is measured.
        packed = {name: self.recipe.out / "pack" / name / "held_out" for name in folders if name != "kto"}
        held_out = {name: self.recipe.out / path for name, path in settings.held_out.items()} or packed
        resolved = settings.model_copy(
            update={
                "held_out": held_out,
                "questions": self._place("evaluate", str(settings.questions)) if settings.questions else None,
                "references": self._place("evaluate", str(settings.references)) if settings.references else None,
                "choice_files": self.recipe.data / settings.choice_files,
            }
        )
        files = [path for path in (resolved.questions, resolved.references, base) if path]
        self._add(
            "evaluate",
            resolved,
            lambda out: stages.evaluate(resolved, measured, out),
            needs=[*folders, *(owner for path in files if (owner := self._owner(path)))],
            files=[path for path in files if not self._inside(path)],
            free=("batch",),
        )

    def _add(
        self,
        name: str,
        settings: Settings | dict[str, Any],
        run: Callable[[Path], object],
        *,
        needs: list[str] | None = None,
        files: list[Path] | None = None,
        **more: Any,
    ) -> None:
        """`more` are further fields of Stage."""
        plain = _plain(settings)
        sources = _sources(settings)
        owners = {source.path: self._owner(Path(source.path)) for source in sources}
        outside = [file for source in sources if not owners[source.path] for file in _files(source)]
        names = dict.fromkeys([*(needs or []), *(owner for owner in owners.values() if owner)])
        out = self.recipe.out / name
        self.stages[name] = Stage(
            name,
            out,
            plain,
            lambda: run(out),
            needs=tuple(self.stages[needed] for needed in names),
            sources=(*outside, *(files or [])),
            **more,
        )

    def _resolved(self, user: str, sources: Sequence[SourceSettings]) -> list[SourceSettings]:
        return [source.model_copy(update={"path": str(self._place(user, str(source.path)))}) for source in sources]

    def _place(self, user: str, path: str) -> Path:
        """`stage:sub` is a folder of an earlier stage; other relative paths begin at the data root."""
        return self._stage_place(user, path) or self.recipe.data / path

    def _stage_place(self, user: str, path: str) -> Path | None:
        """The folder that `stage:sub` means; None for a path that names no stage."""
        stage, colon, inner = path.partition(":")
        if not colon or stage not in ORDER:
            return None
        if stage not in self.stages:
            known = ", ".join(self.stages) or "none"
            raise UserError(
                f"`{path}` names a stage that this recipe does not have before {user}",
                where=self.recipe.name,
                do=f"add a `{stage}:` section, or use one of: {known}",
            )
        return self.recipe.out / stage / inner

    def _inside(self, path: Path) -> bool:
        return self._owner(path) is not None

    def _owner(self, path: Path) -> str | None:
        """The stage that writes `path`."""
        for name, stage in self.stages.items():
            if path == stage.folder or stage.folder in path.parents:
                return name
        return None


def _cleaned_after(recipe: Recipe) -> str | None:
    """The last stage whose tokenizer or model a cleaning step names; None: cleaning comes first."""
    named = stages_named(recipe.clean, ("tokenizer", *TRAINING)) if recipe.clean else set[str]()
    there = [name for name in ("tokenizer", *TRAINING) if name in named and getattr(recipe, name)]
    return there[-1] if there else None


def _require_folder(folder: Path, owner: str | None) -> None:
    """Raises UserError for a tokenizer or model that is not there and that no stage makes."""
    if owner is None and not folder.exists():
        raise UserError("no such tokenizer or model", where=str(folder), do="name the folder in which it is")


def _start_folder(recipe: Recipe, name: str) -> Path:
    """Where the tokenizer comes from when the recipe names none: the folder that the weights come from at first."""
    if before := recipe.stage_before(name):
        return _start_folder(recipe, before)
    return resolve_checkpoint(Path(recipe.start_of(name) or ""))


def _files(source: SourceSettings) -> list[Path]:
    """The files of a source outside the run; none where it names nothing, which its stage will tell."""
    try:
        return source_files(source, "document", Counts())
    except UserError:
        return []


def _lacking_sets(packed: Path, epochs: float, language: Language) -> str:
    """What is not there of what packing makes; what it says of the mix is of so many epochs."""
    if not token_sets_there(packed):
        return "它的词元集不在这里" if language == "zh" else "its token sets are not here"
    packed_for = (read_manifest(packed) or {}).get("epochs", epochs)
    if packed_for == epochs:
        return ""
    told = "它的计数按 {} 遍，而不是 {} 遍" if language == "zh" else "its counts are for {} epochs, not for {}"
    return told.format(f"{packed_for:g}", f"{epochs:g}")


def _plain(settings: Any) -> Any:
    """As JSON has it."""
    if isinstance(settings, Settings):
        return settings.model_dump(mode="json")
    if isinstance(settings, dict):
        return {key: _plain(value) for key, value in settings.items()}
    return [_plain(value) for value in settings] if isinstance(settings, list) else settings


def _sources(settings: Any) -> list[SourceSettings]:
    """Every source inside some settings."""
    if isinstance(settings, SourceSettings):
        return [settings]
    if isinstance(settings, Settings):
        return [source for name in type(settings).model_fields for source in _sources(getattr(settings, name))]
    if isinstance(settings, dict):
        return [source for value in settings.values() for source in _sources(value)]
    if isinstance(settings, list | tuple):
        return [source for value in settings for source in _sources(value)]
    return []
