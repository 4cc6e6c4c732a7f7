"""How well a language model predicts a record, by a model that a room above brings."""

from __future__ import annotations

from typing import Any

import numpy as np

from danlu.text.ops.contents import text_of
from danlu.text.ops.operator import Column, Scorer
from danlu.text.records import Record
from danlu.text.steps.base import Range
from danlu.text.steps.models import PerplexityStep


def score(records: list[Record], step: PerplexityStep, scorer: Scorer) -> dict[str, Column]:
    """`bits_per_byte`: what the scorer says of the first characters; NaN for records that are too short."""
    texts = [text_of(record)[: step.characters] for record in records]
    found = np.full(len(texts), np.nan)
    least = min(step.shortest, step.characters)
    long = [place for place, text in enumerate(texts) if len(text) >= least]
    if long:
        found[long] = scorer([texts[place] for place in long])
    return {"bits_per_byte": found}


def judge(values: dict[str, Any], step: PerplexityStep) -> tuple[str, Any] | None:
    """A record outside the bounds of its language, with its bits per byte."""
    bounds: Range = getattr(step, values["language"])
    return bounds.judge("bits per byte", values["bits_per_byte"])
