"""Is the run well? The loss and gradient norm against their recent band, the loss scale, and what was not finite."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

WINDOW = 128  # steps that make the band
RECENT = 5  # steps that are held against it
SPREADS = 6.0  # robust standard deviations that are still calm
LEAST_SPREAD = 0.02  # of the median: a very smooth curve is no reason to call a wiggle a spike


@dataclass(frozen=True)
class Record:
    """The state of a run at one step. Deviations are in robust standard deviations (1.4826 MAD) above the median."""

    healthy: bool
    why: str
    loss: float | None
    loss_median: float | None
    loss_deviation: float
    grad_norm: float | None
    grad_norm_median: float | None
    grad_norm_deviation: float
    loss_scale: float
    non_finite: int
    non_finite_in_a_row: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Health:
    """Watches the steps. What it remembers goes into the checkpoint, so that a resumed run judges as if never
    stopped.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self.loss_scale = 1.0
        self.non_finite = 0
        self.in_a_row = 0

    def observe(self, loss: float, grad_norm: float, loss_scale: float = 1.0) -> bool:
        """Notes a step and says whether its loss and gradient are finite, so that it may be applied."""
        self.loss_scale = loss_scale
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self.non_finite += 1
            self.in_a_row += 1
            return False
        self.in_a_row = 0
        self._losses.append(loss)
        self._norms.append(grad_norm)
        return True

    def record(self) -> Record:
        """The judgement now."""
        loss_deviation, norm_deviation = _deviation(self._losses), _deviation(self._norms)
        faults = [
            (self.in_a_row > 0, f"{self.in_a_row} steps in a row were not finite"),
            (not self._losses, "no step was finite"),
            (loss_deviation > SPREADS, f"the loss is {loss_deviation:.1f} spreads above its recent median"),
            (norm_deviation > SPREADS, f"the gradient norm is {norm_deviation:.1f} spreads above its recent median"),
            (not (math.isfinite(self.loss_scale) and self.loss_scale >= 1.0), f"the loss scale is {self.loss_scale:g}"),
        ]
        found = [text for is_so, text in faults if is_so]
        return Record(
            healthy=not found,
            why="; ".join(found) or "finite loss, calm gradient norm",
            loss=self._losses[-1] if self._losses else None,
            loss_median=statistics.median(self._losses) if self._losses else None,
            loss_deviation=loss_deviation,
            grad_norm=self._norms[-1] if self._norms else None,
            grad_norm_median=statistics.median(self._norms) if self._norms else None,
            grad_norm_deviation=norm_deviation,
            loss_scale=self.loss_scale,
            non_finite=self.non_finite,
            non_finite_in_a_row=self.in_a_row,
        )

    def state(self) -> dict[str, Any]:
        """All that it remembers; JSON-ready."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "loss_scale": self.loss_scale,
            "non_finite": self.non_finite,
            "in_a_row": self.in_a_row,
        }

    def load(self, state: dict[str, Any]) -> None:
        self._losses = deque(state["losses"], maxlen=WINDOW)
        self._norms = deque(state["norms"], maxlen=WINDOW)
        self.loss_scale, self.non_finite, self.in_a_row = state["loss_scale"], state["non_finite"], state["in_a_row"]


def _deviation(values: deque[float]) -> float:
    """How far the highest recent value stands above the median of those before it; 0 where they are too few to say."""
    before, recent = list(values)[:-RECENT], list(values)[-RECENT:]
    if len(before) < RECENT:
        return 0.0
    median = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(value - median) for value in before)
    return max((max(recent) - median) / max(spread, LEAST_SPREAD * abs(median), 1e-12), 0.0)
