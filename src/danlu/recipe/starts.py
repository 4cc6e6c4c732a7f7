"""The weights that training stages start from: their shape, and what speaks against training them as asked.

Known from configs and the headers of weights, so that it is told before any work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.model.settings import ModelSettings
from danlu.recipe.settings import Recipe
from danlu.recipe.stand_in import STAND_IN, stand_in_shape
from danlu.train.tune_settings import AdapterForm, LoRA, asked_form


def starting_shape(recipe: Recipe, name: str) -> ModelSettings:
    """The shape that a training stage trains; of an open model that is not here, the published one."""
    from danlu.model.open import shape_of

    start, before = recipe.start_of(name), recipe.stage_before(name)
    if before:
        with suppress(UserError):  # weights from which an earlier stage started may be gone once it is done
            return starting_shape(recipe, before)
    if start is None:
        return recipe.model or ModelSettings()
    try:
        return shape_of(resolve_checkpoint(Path(start)))
    except UserError as error:
        if recipe.stand_in and _is_stood_in(recipe, start):
            return stand_in_shape(recipe.stand_in)
        raise UserError(
            f"the weights to start from are not there yet ({error.what})",
            where=start,
            do="run the recipe that makes them first, or add --smoke",
        ) from None


def unfit(recipe: Recipe, stages: Collection[str]) -> Iterator[UserError]:
    """What speaks against running these training stages: weights that are missing, damaged or of another shape than
    their config, an adapter that cannot be trained on as asked, texts longer than positions reach. What one of the
    stages makes is taken as good.
    """
    unknown = set[str]()
    for name in [name for name in recipe.training() if name in stages]:
        before, start = recipe.stage_before(name), recipe.start_of(name)
        if before in unknown:
            unknown.add(name)
            continue
        try:
            if start is not None and before not in stages and Path(start) != recipe.out / STAND_IN:
                _require_start(recipe, name, Path(start))
            _require_positions(recipe, name)
        except UserError as error:
            unknown.add(name)
            yield error


def _require_start(recipe: Recipe, name: str, start: Path) -> None:
    from danlu.model.adapter_folder import is_adapter, read_adapter
    from danlu.model.open import require_readable

    if recipe.stand_in and _is_stood_in(recipe, str(start)):
        raise UserError(
            "the open model that this recipe trains is not there",
            where=str(start),
            do="name its folder: model.from=… tokenizer.path=…; or try the recipe on random weights with --smoke",
        )
    folder, tune = resolve_checkpoint(start), recipe.training()[name].train.tune
    require_readable(folder)
    if isinstance(tune, LoRA) and is_adapter(folder):
        shape = read_adapter(folder).shape
        found = AdapterForm(shape.rank, shape.scale(), shape.magnitudes)
        if not found.fits(asked_form(tune)):
            raise UserError(
                f"the adapter to start from has {found}, and {name}.train.tune asks for {asked_form(tune)}",
                where=str(folder),
                do="give tune the same rank, alpha, rslora and dora, or merge the adapter first (danlu export)",
            )


def _require_positions(recipe: Recipe, name: str) -> None:
    length, longest = recipe.training()[name].data.length, starting_shape(recipe, name).longest
    if length > longest:
        raise UserError(
            f"texts of {length:,} tokens, and the model to start from is meant for {longest:,} (its config.json: "
            "max_position_embeddings, rope_scaling)",
            where=f"{name}.data.length",
            do=f"set it to {longest} or less, or stretch the model's positions: rope_scaling in its config.json",
        )


def _is_stood_in(recipe: Recipe, start: str) -> bool:
    """Whether it is an open model's folder that is not there."""
    folder = recipe.model.from_folder if recipe.model else None
    return folder is not None and start == str(folder) and not folder.exists()
