"""Functions that the rooms above hand in: built once in each worker process."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from danlu.ledger.errors import UserError
from danlu.text.ops.operator import Scorer
from danlu.text.ops.table import OPERATORS
from danlu.text.settings import Step

Scorers = dict[str, dict[str, Any]]
"""{step's name: {"function": "module:factory", "arguments": {...}}}: `factory(**arguments)` makes the function, the
arguments being these and the step's `scoring`."""


def check_scorers(steps: Sequence[Step], scorers: Scorers) -> None:
    """Raises UserError for a step whose function is not there."""
    for step in steps:
        if OPERATORS[step.op].score and not step.scorer() and step.op not in scorers:
            raise UserError(
                f"the step {step.called} needs a model or tokenizer",
                do="name one in the step, or run it as part of a recipe",
            )


def scorer_of(made_by: dict[str, Any]) -> Scorer:
    """The function of a step."""
    return _built(json.dumps(made_by, sort_keys=True))


@cache
def _built(made_by: str) -> Scorer:
    content = json.loads(made_by)
    module, _, name = content["function"].partition(":")
    scorer: Scorer = getattr(importlib.import_module(module), name)(**content["arguments"])
    return scorer
