"""Where a run is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Position:
    """What of a run's place goes into its checkpoints, beside weights and moments."""

    step: int = 0
    consumed: int = 0
    tokens: int = 0
    held_out_loss: float | None = None
    """Of the weights after `step`; None where it was not measured."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Examples cut or dropped so far, by reason."""
    epoch_ended: bool = False
    """In the last step."""
    unmeasured: bool = False
    """Whether the held-out loss of the last step is due: the run was asked to stop before."""
