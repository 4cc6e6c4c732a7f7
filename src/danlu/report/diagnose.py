"""What a training curve shows, named, with the numbers that say so.

Every rule compares the curve with itself, so that none needs to know the model. The thresholds are the constants
below; the published mini_qwen preference runs, whose author wrote down what was wrong with each, check them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from danlu.report.curves import Curve, Points

LEAST_POINTS = 12
"""Fewer losses than this are no curve to judge."""
SLIGHT_STEP, CLEAR_STEP = 0.015, 0.08
"""Fall of the loss at epoch starts, as a share of the loss: memorising sets in, memorising dominates."""
COLD_GAIN = 0.05
"""Nats below ln 2 (the DPO loss of the untouched reference) that a run must reach to have learned a preference."""
FLAT = 0.005
"""Relative fall of the loss over the last third, under which it is flat."""
STILL_HOT = 0.3
"""Share of the highest learning rate above which a flat loss is not just the end of the schedule."""
SPIKE = 8.0
"""Robust standard deviations above the neighbours."""
HELD_OUT_RISE = 0.01
"""Relative rise of the held-out loss above its lowest value."""
UNFINISHED = 0.1
"""Share of the whole fall that the last tenth of the steps still brings, from where a longer run is worth it."""

Kind = Literal[
    "short",
    "not_finite",
    "diverged",
    "steps",
    "steps_slight",
    "overfit",
    "cold",
    "flat",
    "spikes",
    "gradient_spikes",
    "chosen_falls",
    "unfinished",
    "calm",
]
WRONG: frozenset[Kind] = frozenset({"not_finite", "diverged", "steps", "overfit", "cold", "flat"})
"""What most often needs another run; the rest is to be known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A named property of a curve; `values` are the numbers that its sentence in `words` shows."""

    kind: Kind
    values: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return self.kind in WRONG


def diagnose(curve: Curve) -> list[Finding]:
    """All findings of a curve, what is wrong first; `calm` alone where there is none, `short` for too few points."""
    loss = curve.points("loss")
    findings = _not_finite(curve)
    if len(loss) < LEAST_POINTS:
        return [*findings, Finding("short", {"points": len(loss)})]
    findings += [
        finding
        for finding in (
            _diverged(loss),
            _epoch_steps(curve),
            _overfit(curve),
            _cold(curve),
            _flat(curve),
            _spikes(loss, "spikes"),
            _spikes(curve.points("grad_norm"), "gradient_spikes"),
            _chosen_falls(curve),
            _unfinished(loss),
        )
        if finding
    ]
    return sorted(findings, key=lambda finding: not finding.wrong) or [Finding("calm")]


def step_at(points: Points, boundary: float, width: float) -> float | None:
    """How far the loss falls at `boundary` beyond its trend, relative to the loss there.

    Straight lines through the points less than `width` before and after the boundary are compared at the boundary.

    A loss that has seen its data once measures the gap between new and known examples there, as the weights hardly
    change in one step. The point whose average spans the boundary is left out. None with fewer than 3
    points on a side, or when the fall is within twice its standard error.
    """
    before = [(step, value) for step, value in points if boundary - width <= step <= boundary]
    after = [(step, value) for step, value in points if boundary < step <= boundary + width][1:]
    if min(len(before), len(after)) < 3:
        return None
    (above, above_error), (below, below_error) = _line_at(before, boundary), _line_at(after, boundary)
    fall, error = above - below, math.hypot(above_error, below_error)
    return fall / above if fall > 2 * error else None


def _line_at(points: Points, at: float) -> tuple[float, float]:
    """A least-squares line's value at a step, and its standard error."""
    steps, values = np.array(points).T
    centred = steps - steps.mean()
    spread = float(centred @ centred)
    slope = float(centred @ values) / spread
    residuals = values - values.mean() - slope * centred
    variance = float(residuals @ residuals) / max(len(points) - 2, 1)
    error = math.sqrt(variance * (1 / len(points) + (at - steps.mean()) ** 2 / spread))
    return float(values.mean() + slope * (at - steps.mean())), error


def _not_finite(curve: Curve) -> list[Finding]:
    bad = [row["step"] for row in curve.rows if math.isnan(row.get("loss", 0.0))]
    return [Finding("not_finite", {"count": len(bad), "step": bad[0]})] if bad else []


def _diverged(loss: Points) -> Finding | None:
    """The end lies higher than the start, or lost most of what had been won."""
    values = np.array([value for _, value in loss])
    tenth = max(3, len(values) // 10)
    start, end = np.median(values[:tenth]), np.median(values[-tenth:])
    lowest = min(np.median(values[i : i + tenth]) for i in range(len(values) - tenth + 1))
    if end > start or end - lowest > 0.5 * max(start - lowest, 1e-9):
        return Finding("diverged", {"start": float(start), "lowest": float(lowest), "end": float(end)})
    return None


def _epoch_steps(curve: Curve) -> Finding | None:
    starts = curve.epoch_starts()
    loss = curve.points("loss")
    if not starts:
        return None
    falls = [fall for start in starts if (fall := step_at(loss, start, starts[0] / 2)) is not None]
    mean = sum(falls) / len(starts)
    if mean < SLIGHT_STEP:
        return None
    kind: Kind = "steps" if max(falls) >= CLEAR_STEP else "steps_slight"
    return Finding(kind, {"largest": max(falls), "mean": mean, "epochs": len(starts) + 1})


def _overfit(curve: Curve) -> Finding | None:
    held_out = curve.points("held_out_loss")
    if len(held_out) < 3:
        return None
    best_step, best = min(held_out, key=lambda point: point[1])
    last = held_out[-1][1]
    if last < best * (1 + HELD_OUT_RISE):
        return None
    return Finding("overfit", {"step": best_step, "best": best, "last": last, "rise": last / best - 1})


def _cold(curve: Curve) -> Finding | None:
    """Preference runs begin at ln 2 by construction; one that stays there has learned nothing of the preference."""
    loss, accuracy = curve.points("loss"), curve.points("rewards_accuracy")
    if not accuracy:
        return None
    start = loss[0][1]
    end = float(np.mean([value for _, value in loss[-max(3, len(loss) // 10) :]]))
    # Other losses than the sigmoid do not start at ln 2; their own start takes its place.
    origin = math.log(2) if abs(start - math.log(2)) < 0.05 else start
    if origin - end >= COLD_GAIN * origin / math.log(2):
        return None
    return Finding("cold", {"gain": origin - end, "accuracy": accuracy[-1][1], "rate": _peak(curve)})


def _peak(curve: Curve) -> float:
    return max((value for _, value in curve.points("learning_rate")), default=math.nan)


def _flat(curve: Curve) -> Finding | None:
    """The last third brings nothing though the learning rate is still high."""
    loss, rates = curve.points("loss"), curve.points("learning_rate")
    third = len(loss) // 3
    late = [rate for step, rate in rates if step >= loss[-third][0]]
    if not late or np.mean(late) < STILL_HOT * _peak(curve):
        return None
    values = np.array([value for _, value in loss[-third:]])
    half = third // 2
    fall = float(np.mean(values[:half]) - np.mean(values[-half:])) / float(np.mean(values))
    return Finding("flat", {"fall": fall, "level": float(values.mean())}) if abs(fall) < FLAT else None


def _spikes(points: Points, kind: Kind, window: int = 5) -> Finding | None:
    """Points far above the medians both of the `window` points before and of those after, which a steep fall never is.

    Distances are measured in logarithms, against the usual distance of a point from its neighbours.
    """
    if len(points) < LEAST_POINTS:
        return None
    values = np.log(np.maximum([value for _, value in points], 1e-12))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, window), axis=1)
    inner = values[window:-window]
    above = inner - np.maximum(medians[: len(inner)], medians[-len(inner) :])
    usual = max(1.4826 * float(np.median(np.abs(above))), 0.002)
    high = np.flatnonzero(above > SPIKE * usual)
    if not len(high):
        return None
    largest = int(high[np.argmax(above[high])])
    step, value = points[largest + window]
    return Finding(kind, {"count": len(high), "step": step, "value": value, "times": float(np.exp(above[largest]))})


def _chosen_falls(curve: Curve) -> Finding | None:
    """The margin grows mostly because both answers become unlikely: the chosen one falls too."""
    chosen, rejected = curve.points("rewards_chosen"), curve.points("rewards_rejected")
    if not chosen or not rejected:
        return None
    tenth = max(3, len(chosen) // 10)
    end = [float(np.mean([value for _, value in points[-tenth:]])) for points in (chosen, rejected)]
    if end[0] > 0.5 * end[1] or end[1] >= 0:
        return None
    return Finding("chosen_falls", {"chosen": end[0], "rejected": end[1]})


def _unfinished(loss: Points) -> Finding | None:
    values = np.array([value for _, value in loss])
    tenth = max(2, len(values) // 10)
    whole = float(values[:tenth].mean() - values[-tenth:].mean())
    last = float(values[-2 * tenth : -tenth].mean() - values[-tenth:].mean())
    return Finding("unfinished", {"share": last / whole}) if whole > 0 and last > UNFINISHED * whole else None
