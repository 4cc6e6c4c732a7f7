"""Runs out of memory as a GPU does: on one process of several, in the first micro-batch with too many rows, or later.

As a program it runs what `tiny.launch` hands it, on a process whose rank is 1.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tiny
import torch

from danlu.train.objectives.table import objective_of
from danlu.train.preference_settings import TRAIN_SETTINGS

ROWS = 2


def heavy(objective: Any, rows: int, calls: int = 0) -> Any:
    """The objective, which does not fit with more than `rows` rows a micro-batch after so many that did."""
    left = [calls]

    class Heavy(type(objective)):  # type: ignore[misc]
        def compute(self, network: Any, batch: Any, factor: float = 1.0) -> Any:
            if len(batch.tokens) > rows:
                left[0] -= 1
                if left[0] < 0:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
            return super().compute(network, batch, factor)

        def prepared(self, network: Any, aside: Any, total: Any) -> Any:
            if aside and len(aside[0].tokens) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
            return super().prepared(network, aside, total)

    made = object.__new__(Heavy)
    made.__dict__.update(vars(objective))
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    for out, kind, given in json.loads(sys.argv[1]):
        settings = {one.__name__: one for one in TRAIN_SETTINGS.values()}[kind].model_validate_json(given)
        objective = objective_of(settings)
        if os.environ["RANK"] == "1":
            objective = heavy(objective, ROWS, calls=3)
        tiny.run(Path(out), settings, tiny.unit_of(settings), objective=objective)
