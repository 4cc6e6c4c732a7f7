"""From a recipe to its stages: who needs whom, and with which files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.config import Settings
from danlu.ledger.errors import UserError
from danlu.recipe import stages
from danlu.recipe.graph import Stage
from danlu.recipe.settings import Recipe, TrainingStage
from danlu.text.settings import SourceSettings

ORDER = ("sample", "clean", "tokenizer", "pretrain", "sft", "dpo", "evaluate")


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
            self._add("sample", recipe.sample, lambda out: stages.sample(recipe.sample, out))
        if recipe.clean:
            settings = recipe.clean.model_copy(update={"sources": self._resolved("clean", recipe.clean.sources)})
            self._add("clean", settings, lambda out: stages.clean(settings, out))
        if recipe.tokenizer:
            self._add_tokenizer()
        before: str | None = None
        for name, section in recipe.training().items():
            self._add_training(name, section, before)
            before = name
        if recipe.evaluate:
            trained = {name: self.stages[name].folder for name in recipe.training()}
            self._add(
                "evaluate",
                recipe.evaluate,
                lambda out: stages.evaluate(recipe, trained, out),
                needs=[*trained, *(name for name in ("sample",) if name in self.stages)],
            )
        return self.stages

    def _add_tokenizer(self) -> None:
        settings = self.recipe.tokenizer
        assert settings is not None
        if settings.train is not None:
            sources = self._resolved("tokenizer", settings.train.sources)
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"sources": sources})})
        files = [settings.path] if settings.path else []
        self._add("tokenizer", settings, lambda out: stages.tokenizer(settings, out), files=files)

    def _add_training(self, name: str, section: TrainingStage, before: str | None) -> None:
        recipe, folder = self.recipe, self.recipe.out
        tokenizer = folder / "tokenizer" if recipe.tokenizer else _start_folder(recipe, section)
        data = section.data.model_copy(update={"sources": self._resolved(name, section.data.sources)})
        needs = ["tokenizer"] if recipe.tokenizer else []
        packed = f"pack/{name}"
        self._add(packed, data, lambda out: stages.pack(data, name, tokenizer, out), needs=needs)
        start = Path(section.start) if section.start else self.stages[before].folder if before else None
        depends = {"train": section.train, "start": section.start, "seed": recipe.seed}
        if start is None:
            depends["model"] = recipe.model
        self._add(
            name,
            depends,
            lambda out: stages.train(
                name,
                section.train,
                data,
                folder / packed,
                tokenizer,
                out,
                model=recipe.model if start is None else None,
                start=start,
                seed=recipe.seed,
                processes=recipe.processes,
            ),
            needs=[packed, *needs, *([before] if before and not section.start else [])],
        )

    def _add(
        self,
        name: str,
        settings: Settings | dict[str, Any],
        run: Any,
        *,
        needs: list[str] | None = None,
        files: list[Path] | None = None,
    ) -> None:
        plain = _plain(settings)
        sources = _sources(settings)
        outside = [path for path in (Path(source.path) for source in sources) if not self._inside(path)]
        earlier = [self._owner(Path(source.path)) for source in sources if self._inside(Path(source.path))]
        names = dict.fromkeys([*(needs or []), *(owner for owner in earlier if owner)])
        out = self.recipe.out / name
        self.stages[name] = Stage(
            name,
            out,
            plain,
            lambda: run(out),
            needs=tuple(self.stages[needed] for needed in names),
            sources=(*outside, *(files or [])),
        )

    def _resolved(self, user: str, sources: list[SourceSettings]) -> list[SourceSettings]:
        return [source.model_copy(update={"path": str(self._place(user, str(source.path)))}) for source in sources]

    def _place(self, user: str, path: str) -> Path:
        """`stage:sub` is a folder of an earlier stage; other relative paths begin at the data root."""
        stage, colon, inner = path.partition(":")
        if colon and stage in ORDER:
            if stage not in self.stages:
                known = ", ".join(self.stages) or "none"
                raise UserError(
                    f"source `{path}` names a stage that this recipe does not have before {user}",
                    where=self.recipe.name,
                    do=f"add a `{stage}:` section, or use one of: {known}",
                )
            return self.recipe.out / stage / inner
        return self.recipe.data / path

    def _inside(self, path: Path) -> bool:
        return self._owner(path) is not None

    def _owner(self, path: Path) -> str | None:
        """The stage that writes `path`."""
        for name, stage in self.stages.items():
            if path == stage.folder or stage.folder in path.parents:
                return name
        return None


def _start_folder(recipe: Recipe, section: TrainingStage) -> Path:
    """Where the tokenizer comes from when the recipe names none: the folder that the weights come from."""
    from danlu.ledger.checkpoints import resolve_checkpoint

    start = section.start or (str(recipe.model.from_folder) if recipe.model and recipe.model.from_folder else "")
    return resolve_checkpoint(Path(start))


def _plain(settings: Settings | dict[str, Any]) -> dict[str, Any]:
    if isinstance(settings, Settings):
        return settings.model_dump(mode="json")
    return {key: _plain(value) if isinstance(value, Settings) else value for key, value in settings.items()}


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
