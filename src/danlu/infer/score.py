"""Log-likelihood of given continuations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.infer.cache import Causal
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder

FORWARD_TOKENS = 8192  # of one forward pass, padding included


class ContinuationScore(NamedTuple):
    """Sum of the natural log-probabilities of the tokens, whether each is the likeliest, and each by itself."""

    logp: float
    greedy: bool
    logps: list[float]


@torch.inference_mode()
def score(
    decoder: Decoder,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    device: torch.device,
    pick_1N: Tensor | None = None,
) -> list[ContinuationScore]:
    """Scores (context, continuation) pairs of token ids, in their order; `pick_1N` is the adapter that all take.

    What two pairs share but for their last token is computed once: choices of one token cost one row a question.
    Raises UserError for an empty context or a pair longer than the window.
    """
    require_tokens(decoder)
    sequences: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(pairs):
        if not context:
            raise UserError(f"pair {index} has an empty context", do="begin it with the first or stop token")
        sequence = (*context, *continuation)[:-1] if continuation else tuple(context)
        if len(sequence) > decoder.settings.max_positions:
            raise UserError(
                f"pair {index} has {len(sequence)} tokens and the window {decoder.settings.max_positions}",
                do="shorten its context",
            )
        sequences.setdefault(sequence, []).append(index)
    results: list[ContinuationScore | None] = [None] * len(pairs)
    for batch in batches(sorted(sequences, key=len, reverse=True)):
        hidden_BTD = hidden_states(decoder, batch, device, pick_1N)
        wanted = [(row, index) for row, sequence in enumerate(batch) for index in sequences[sequence]]
        rows = [row for row, index in wanted for _ in pairs[index][1]]
        places = [len(pairs[index][0]) - 1 + offset for _, index in wanted for offset in range(len(pairs[index][1]))]
        labels = [token for _, index in wanted for token in pairs[index][1]]
        labels_N = torch.tensor(labels, dtype=torch.long, device=device)
        read = decoder.head(hidden_BTD[rows, places], labels_N, needs="logp")
        sizes = [len(pairs[index][1]) for _, index in wanted]
        parts = zip(wanted, read.logp.cpu().split(sizes), read.correct.cpu().split(sizes), strict=True)
        for (_, index), logp_n, correct_n in parts:
            logps = logp_n.tolist()
            results[index] = ContinuationScore(math.fsum(logps), bool(correct_n.all()), logps)
    return [result for result in results if result is not None]


def require_tokens(decoder: Decoder) -> None:
    """Raises UserError for a reward model."""
    if decoder.reward is not None:
        raise UserError(
            "this is a reward model: it scores answers (danlu.infer.reward) and knows no next token",
            do="name the model that it was trained from",
        )


def batches(sequences: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Cuts a list sorted by falling length into batches of at most `FORWARD_TOKENS`, padding included."""
    start = 0
    while start < len(sequences):
        count = max(1, FORWARD_TOKENS // len(sequences[start]))
        yield sequences[start : start + count]
        start += count


def hidden_states(
    decoder: Decoder, batch: list[tuple[int, ...]], device: torch.device, pick_1N: Tensor | None = None
) -> Tensor:
    """The last hidden states [B, T, D] of sequences, the longest first; what follows a shorter one is padding."""
    width = len(batch[0])
    tokens_BT = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in batch], device=device)
    positions_BT = torch.arange(width, device=device).expand_as(tokens_BT)
    pick_BN = None if pick_1N is None else pick_1N.expand(len(batch), -1)
    return decoder(tokens_BT, positions_BT, Causal(decoder.settings.sliding_window), pick_BN)
