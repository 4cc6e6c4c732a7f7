"""Asks its own process to stop while a micro-batch is computed.

As a program it runs what `tiny.launch` hands it, asks only on the process whose rank is 1, and leaves what each
process was told in the run's folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import tiny
import torch

from danlu.ledger.errors import Stopped
from danlu.train.objectives.table import objective_of
from danlu.train.preference_settings import TRAIN_SETTINGS

WHEN = 4


def signalled(objective: Any, when: int) -> Any:
    """The objective, in whose so many-th micro-batch, trained on or only measured, the process is asked to stop."""

    class Signalled(type(objective)):  # type: ignore[misc]
        calls = 0

        def compute(self, network: Any, batch: Any, factor: float = 1.0) -> Any:
            Signalled.calls += 1
            if Signalled.calls == when:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().compute(network, batch, factor)

    made = object.__new__(Signalled)
    made.__dict__.update(vars(objective))
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    for out, kind, given in json.loads(sys.argv[1]):
        settings = {one.__name__: one for one in TRAIN_SETTINGS.values()}[kind].model_validate_json(given)
        objective = signalled(objective_of(settings), WHEN if os.environ["RANK"] == "1" else 0)
        try:
            tiny.run(Path(out), settings, tiny.unit_of(settings), objective=objective)
        except Stopped as stopped:
            Path(out, f"told-{os.environ['RANK']}").write_text(f"{objective.calls} {stopped}")
