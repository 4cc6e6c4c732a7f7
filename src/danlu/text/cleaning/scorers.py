"""Functions that the rooms above hand in: built once in each worker process."""

from __future__ import annotations

import importlib
import json
from functools import cache
from typing import Any

from danlu.ledger.errors import UserError
from danlu.text.ops.operator import Scorer

Scorers = dict[str, dict[str, Any]]
"""{step's name: {"function": "module:factory", "arguments": {...}}}: `factory(**arguments)` makes the function."""


def scorer_of(op: str, made_by: dict[str, Any] | None) -> Scorer:
    """The function of a step. Raises UserError where none was handed in."""
    if made_by is None:
        raise UserError(f"the step {op} needs a model or tokenizer", do="run it as part of a recipe that names one")
    return _built(json.dumps(made_by, sort_keys=True))


@cache
def _built(made_by: str) -> Scorer:
    content = json.loads(made_by)
    module, _, name = content["function"].partition(":")
    scorer: Scorer = getattr(importlib.import_module(module), name)(**content["arguments"])
    return scorer
