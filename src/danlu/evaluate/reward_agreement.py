"""How far two forms of a reward model agree: what they give to the same conversations, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from danlu.infer.reward import rewards_of_tokens
from danlu.model.decoder import Decoder

LEAST_PAIRS, MOST_DIFFERENCE = 0.95, 0.05  # beyond both of these a form is another model


@dataclass(frozen=True)
class RewardAgreement:
    """Of one form with another, over the rewards of some texts."""

    difference: float
    """The largest between two rewards of the same text."""
    spread: float
    """Standard deviation of the reference's rewards: only beside it does a difference mean anything."""
    rank_correlation: float
    """Spearman's, between both forms' rewards."""
    pairs: float
    """Share of all pairs of texts that both rank the same."""
    prompts: int
    tokens: int

    @property
    def same_model(self) -> bool:
        """Whether the other form may pass for the reference."""
        return self.pairs >= LEAST_PAIRS or self.difference <= MOST_DIFFERENCE * self.spread

    @property
    def limits(self) -> dict[str, float]:
        """What decides on that."""
        return {"pairs": LEAST_PAIRS, "difference_by_spread": MOST_DIFFERENCE}

    @property
    def wanted(self) -> str:
        """The limits in words."""
        return f"at least {LEAST_PAIRS:.0%} of pairs or at most {MOST_DIFFERENCE:.0%} of the spread are wanted"

    def line(self) -> str:
        """The figures in one line."""
        return (
            f"rewards differ by at most {self.difference:.2e} (their spread is {self.spread:.2e}), rank correlation "
            f"{self.rank_correlation:.4f}, {self.pairs:.2%} of the pairs of {self.prompts} texts ranked the same"
        )


def reward_agreement(reference: Decoder, other: Decoder, texts: Sequence[Sequence[int]]) -> RewardAgreement:
    """How far `other` rewards the texts, as token ids, as `reference` does. Raises ValueError for fewer than two."""
    if len(texts) < 2:
        raise ValueError("agreement of rewards needs at least two texts")
    sequences = [tuple(ids) for ids in texts]
    mine, others = (rewards_of_tokens(decoder, sequences).astype(np.float64) for decoder in (reference, other))
    first, second = np.triu_indices(len(texts), 1)
    same = np.sign(mine[first] - mine[second]) == np.sign(others[first] - others[second])
    return RewardAgreement(
        difference=float(np.abs(mine - others).max()),
        spread=float(mine.std()),
        rank_correlation=_correlation(_ranks(mine), _ranks(others)),
        pairs=float(same.mean()),
        prompts=len(texts),
        tokens=sum(map(len, texts)),
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places in rising order; equal values share the mean of theirs."""
    rising = np.sort(values)
    return (np.searchsorted(rising, values, "left") + np.searchsorted(rising, values, "right") - 1) / 2


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Pearson's; where either never changes, 1 for equal ones, else 0."""
    if one.std() == 0 or two.std() == 0:
        return float(np.array_equal(one, two))
    return float(np.corrcoef(one, two)[0, 1])
