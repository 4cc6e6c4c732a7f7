"""Errors of shares: how far a score may lie from what more questions would give."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
ONE_IN_TWENTY = 1.6448536269514722


def standard_error(share: float, n: int) -> float:
    """Of a share of n independent answers, from their sample variance; a single one tells nothing: 0.5, the largest."""
    return math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else 0.5


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927), which stays within 0 and 1 and holds for few answers too."""
    share, spread = hits / n, Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def at_chance(share: float, chance: float, n: int) -> bool:
    """Whether guessing would reach the share in one of twenty tries or more (one-sided, normal approximation)."""
    return share < chance + ONE_IN_TWENTY * math.sqrt(chance * (1 - chance) / n)


def macro(shares: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The unweighted mean of (share, n) parts, and its standard error."""
    errors = [standard_error(share, n) for share, n in shares]
    mean = sum(share for share, _ in shares) / len(shares)
    return mean, math.sqrt(sum(error**2 for error in errors)) / len(shares)
