"""The same stages and code, made small: what `--smoke` changes in a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.ledger.checkpoints import EPOCH, list_checkpoints
from danlu.model.settings import ModelSettings
from danlu.recipe.settings import Recipe, TrainingStage
from danlu.recipe.stand_in import STAND_IN
from danlu.text.settings import SourceSettings

ROWS = 64
HELD_OUT = 0.1  # of so few rows; a hundredth would leave most sources without one
LENGTH = 256
VOCABULARY = 512  # of a tokenizer that is trained: a few rows give no more merges than that
BATCH = 8
STEPS = 4
CUT = ("max_rows_without_loss", "max_rows_dropped", "max_turns_lost", "max_stop_untrained")


def smoked(recipe: Recipe) -> Recipe:
    """The recipe with a two-layer decoder, a few short rows of each source and a few float32 steps.

    It writes beside the real run, to `out`-smoke, and takes the weights it starts from out of there too; a recipe's
    stand_in takes the place of an open model. The way from text to report, the templates, the objectives and the
    schedules stay as they are.
    """
    shape = _shape(recipe.model or ModelSettings(), recipe)
    small: dict[str, object] = {"out": _beside(recipe.out), "processes": 1, "model": shape}
    if recipe.tokenizer and recipe.tokenizer.train:
        entries = min(recipe.tokenizer.train.vocab_size, VOCABULARY)
        train = recipe.tokenizer.train.model_copy(update={"vocab_size": entries})
        small["tokenizer"] = recipe.tokenizer.model_copy(update={"train": train})
        small["model"] = shape.model_copy(update={"vocab_size": entries})
    if recipe.stand_in and recipe.model and recipe.model.from_folder is not None:
        place = _beside(recipe.out) / STAND_IN
        small["stand_in"] = recipe.stand_in.model_copy(update={"small": True})
        small["model"] = shape.model_copy(update={"from_folder": place})
        if recipe.tokenizer and recipe.tokenizer.path:
            small["tokenizer"] = recipe.tokenizer.model_copy(update={"path": str(place)})
    for name, section in recipe.training().items():
        small[name] = _training(recipe, section)
    if recipe.clean:
        small["clean"] = recipe.clean.model_copy(update={"sources": _few(recipe.clean.sources)})
    if recipe.evaluate:
        small["evaluate"] = recipe.evaluate.model_copy(update={"limit": 4})
    return recipe.model_copy(update=small)


def _beside(out: Path) -> Path:
    return out.with_name(out.name + "-smoke")


def _moved(path: Path, recipe: Recipe) -> Path:
    """A place inside the real run becomes the same place in the smoke run."""
    if path == recipe.out or recipe.out in path.parents:
        return _beside(recipe.out) / path.relative_to(recipe.out)
    return path


def _shape(model: ModelSettings, recipe: Recipe) -> ModelSettings:
    if model.from_folder is not None:
        return model.model_copy(update={"from_folder": _moved(model.from_folder, recipe)})
    small = {"hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": None, "mlp_size": 128}
    return model.model_copy(update=small)


def _training(recipe: Recipe, section: TrainingStage) -> TrainingStage:
    length = min(section.data.length, LENGTH)
    budget = section.data.answer_budget
    data = section.data.model_copy(
        update={
            "length": length,
            "answer_budget": budget and min(budget, length // 2),
            "sources": _few(section.data.sources),
            "held_out": max(section.data.held_out, HELD_OUT) if section.data.held_out else 0.0,
            "workers": 1,
        }
    )
    train = section.train.model_copy(
        update={
            "batch": min(section.train.batch, BATCH),
            "batch_ramp": [],
            "steps": STEPS,
            "rows": None,
            "precision": "float32",
            "optimizer_states": "float32",
            "compile": False,
            "evaluate_every": min(section.train.evaluate_every, STEPS // 2),
            "save": section.train.save.model_copy(update={"every": min(section.train.save.every, STEPS // 2)}),
            # Short rows lose what the recipe's own length keeps.
            "limits": section.train.limits.model_copy(update=dict.fromkeys(CUT, 1.0)),
        }
    )
    return section.model_copy(update={"data": data, "train": train, "start": _start(recipe, section)})


def _start(recipe: Recipe, section: TrainingStage) -> str | None:
    """The starting weights out of the smoke run; None, for random ones, where no smoke run has made them."""
    if section.start is None:
        return None
    moved = _moved(Path(section.start.partition(EPOCH)[0]), recipe)
    return str(moved) if list_checkpoints(moved) else None


def _few(sources: Sequence[SourceSettings]) -> list[SourceSettings]:
    return [source.model_copy(update={"limit": min(source.limit or ROWS, ROWS)}) for source in sources]
