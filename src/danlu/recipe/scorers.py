"""The functions of other rooms that cleaning steps score by, and the tokenizers and models that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.ledger.errors import UserError
from danlu.text.settings import CleanSettings, Step

if TYPE_CHECKING:  # its module loads all cleaning steps, which a training run does without
    from danlu.text.cleaning.scorers import Scorers

FUNCTIONS = {
    "tokens": "danlu.tokens.count:token_counter",
    "history_tokens": "danlu.tokens.count:token_counter",
    "perplexity": "danlu.infer.cleaning:bits_per_byte",
    "reward": "danlu.infer.cleaning:rewards",
}


def scorers_of(settings: CleanSettings) -> Scorers:
    """The functions of the steps. Raises UserError for a step whose tokenizer or model nobody names."""
    for step in settings.steps:
        for name in step.folders:
            if getattr(step, name) is None:
                raise UserError(
                    f"the step {step.called} needs a {name}",
                    do=f"write `{name}: FOLDER` into the step, or `{name}: {{path: FOLDER}}` into the recipe; what the "
                    f"recipe trains itself is `{name}: STAGE:` in the step",
                )
    return {
        step.op: {"function": FUNCTIONS[step.op], "arguments": {}} for step in settings.steps if step.op in FUNCTIONS
    }


def with_folders(settings: CleanSettings, tokenizer: str | None, place: Callable[[str], Path | None]) -> CleanSettings:
    """The settings, each step with the folder of its tokenizer or model.

    `tokenizer` is the recipe's own folder; `place` gives the folder of "STAGE:", None for what names no stage.
    """
    return settings.model_copy(update={"steps": [_step(step, tokenizer, place) for step in settings.steps]})


def stages_named(settings: CleanSettings, stages: tuple[str, ...]) -> set[str]:
    """The stages whose tokenizer or model the steps name."""
    given = (getattr(step, name) for step in settings.steps for name in step.folders)
    return {stage for stage in stages if any(str(path).startswith(f"{stage}:") for path in given)}


def _step(step: Step, tokenizer: str | None, place: Callable[[str], Path | None]) -> Step:
    found = {}
    for name in step.folders:
        given = getattr(step, name) or (tokenizer if name == "tokenizer" else None)
        found[name] = given and str(place(given) or given)
    return step.model_copy(update=found) if found else step
