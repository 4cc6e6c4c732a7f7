"""How much of each source is seen: weights, shares and temperature as passes in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from danlu.tokens.settings import DataSettings


@dataclass(frozen=True, slots=True)
class Portion:
    """One source's part in training."""

    tokens: int
    """That it holds, uncut."""
    passes: float
    """Over it in one epoch."""
    share: float
    """Of all tokens that are seen."""
    epochs: float
    """Passes over it in the whole run."""

    @property
    def seen(self) -> float:
        """Tokens of it that the run sees."""
        return self.tokens * self.epochs


def portions(settings: DataSettings, tokens: Sequence[int], epochs: float) -> list[Portion]:
    """The part of each of `settings.sources`, which hold so many `tokens`, in a run of so many epochs.

    A source with n tokens and weight w gets tokens in proportion to w · n^(1 / temperature) (Arivazhagan et al. 2019,
    arXiv 1907.05019); one with a `share` gets that. An epoch has as many tokens as the sources have, times their
    weights. What would come more than `max_epochs` times in the run is cut to that, and the others get what is left, in
    proportion; an epoch is shorter only where all are at their most.
    """
    sources = settings.sources
    caps = [0.0 if not held else (of.max_epochs or math.inf) / epochs for of, held in zip(sources, tokens, strict=True)]
    weighted = [of.weight * held for of, held in zip(sources, tokens, strict=True)]
    given = sum(of.share or 0.0 for of in sources)
    powers = [
        0.0 if of.share or not held else of.weight * held ** (1 / settings.temperature)
        for of, held in zip(sources, tokens, strict=True)
    ]
    rest = (1 - given) * sum(weighted) / (sum(powers) or 1.0)
    amounts = [
        of.share * sum(weighted) if of.share else power * rest for of, power in zip(sources, powers, strict=True)
    ]
    passes = _filled(amounts, tokens, caps)
    seen = [rate * held for rate, held in zip(passes, tokens, strict=True)]
    return [
        Portion(held, rate, of / (sum(seen) or 1.0), rate * epochs)
        for held, rate, of in zip(tokens, passes, seen, strict=True)
    ]


def plan(names: Sequence[str], settings: DataSettings, tokens: Mapping[str, int], epochs: float) -> dict[str, object]:
    """The portions by name, as a manifest holds them."""
    found = portions(settings, [tokens[name] for name in names], epochs)
    return {
        name: {"tokens": of.tokens, "share": of.share, "epochs": of.epochs, "seen": round(of.seen)}
        for name, of in zip(names, found, strict=True)
    }


def _filled(amounts: Sequence[float], tokens: Sequence[int], caps: Sequence[float]) -> list[float]:
    """Passes that give each source its amount, or its cap where that is less; what is left goes to the others."""
    total, passes = sum(amounts), [0.0] * len(amounts)
    free = set(range(len(amounts)))
    scale = 1.0
    while free:
        over = {at for at in free if amounts[at] * scale > caps[at] * tokens[at] * (1 + 1e-12) or not tokens[at]}
        if not over:
            break
        for at in over:
            passes[at] = caps[at]
        free -= over
        left = total - sum(passes[at] * tokens[at] for at in range(len(amounts)) if at not in free)
        scale = left / (sum(amounts[at] for at in free) or 1.0)
    for at in free:
        passes[at] = amounts[at] * scale / tokens[at]
    return passes
