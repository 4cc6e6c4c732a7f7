"""What a classifier says of a record."""

from __future__ import annotations

import numpy as np

from danlu.text.ops.contents import text_of
from danlu.text.ops.operator import Column, Scorer
from danlu.text.records import Record
from danlu.text.steps.classifier import ClassifierStep


def score(records: list[Record], step: ClassifierStep, scorer: Scorer) -> dict[str, Column]:
    """`score`: the probability of the step's label."""
    return {"score": np.asarray(scorer([text_of(record) for record in records]), np.float64)}
