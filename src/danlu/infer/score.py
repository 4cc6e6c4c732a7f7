"""Log-likelihood of given continuations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.infer.cache import Causal
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder

FORWARD_TOKENS = 8192  # of one forward pass, padding included
LOGITS = 2**25  # logits held at once: 128 MB in float32


class ContinuationScore(NamedTuple):
    """Sum of the natural log-probabilities of a continuation's tokens, whether each is the likeliest, and each by itself."""

    logp: float
    greedy: bool
    logps: list[float]


@torch.inference_mode()
def score(
    decoder: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> list[ContinuationScore]:
    """Scores (context, continuation) pairs of token ids, in their order.

    What two pairs share but for their last token is computed once: choices of one token cost one row a question.
    Raises UserError for an empty context or a pair longer than the window.
    """
    sequences: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(pairs):
        if not context:
            raise UserError(
                f"pair {index} has an empty context", do="begin it with the tokenizer's first or stop token"
            )
        sequence = (*context, *continuation)[:-1] if continuation else tuple(context)
        if len(sequence) > decoder.settings.max_positions:
            raise UserError(
                f"pair {index} has {len(sequence)} tokens and the window {decoder.settings.max_positions}",
                do="shorten its context",
            )
        sequences.setdefault(sequence, []).append(index)
    results: list[ContinuationScore | None] = [None] * len(pairs)
    for batch in _batches(sorted(sequences, key=len, reverse=True)):
        hidden_BTD = _hidden(decoder, batch, device)
        places = [  # (row, first position whose prediction counts, pair)
            (row, len(pairs[index][0]) - 1, index)
            for row, sequence in enumerate(batch)
            for index in sequences[sequence]
        ]
        logps, best = _read(decoder, hidden_BTD, [(row, start, pairs[index][1]) for row, start, index in places])
        for (_, _, index), logp, greedy in zip(places, logps, best, strict=True):
            results[index] = ContinuationScore(sum(logp), greedy, logp)
    return [result for result in results if result is not None]


def _batches(sequences: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Cuts a list sorted by falling length into batches."""
    start = 0
    while start < len(sequences):
        count = max(1, FORWARD_TOKENS // len(sequences[start]))
        yield sequences[start : start + count]
        start += count


def _hidden(decoder: Decoder, batch: list[tuple[int, ...]], device: torch.device) -> Tensor:
    width = len(batch[0])
    tokens_BT = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in batch], device=device)
    positions_BT = torch.arange(width, device=device).expand_as(tokens_BT)
    return decoder(tokens_BT, positions_BT, Causal(decoder.settings.sliding_window))


def _read(
    decoder: Decoder, hidden_BTD: Tensor, wanted: list[tuple[int, int, Sequence[int]]]
) -> tuple[list[list[float]], list[bool]]:
    """Log-probabilities of the tokens of each (row, start, continuation), and whether all of them are the likeliest."""
    sizes = [len(continuation) for _, _, continuation in wanted]
    device, width = hidden_BTD.device, hidden_BTD.shape[1]
    places = [row * width + start + offset for row, start, tokens in wanted for offset in range(len(tokens))]
    places_M, place_N = torch.tensor(places, dtype=torch.long, device=device).unique(return_inverse=True)
    labels_N = torch.tensor([token for *_, tokens in wanted for token in tokens], dtype=torch.long, device=device)
    logp_N = torch.empty(len(labels_N), device=device)
    best_N = torch.empty(len(labels_N), dtype=torch.bool, device=device)
    chunk = max(1, LOGITS // decoder.settings.vocab_size)
    for first in range(0, len(places_M), chunk):
        logits_MV = decoder.head.logits(hidden_BTD.flatten(0, 1)[places_M[first : first + chunk]]).float()
        here_n = ((place_N >= first) & (place_N < first + chunk)).nonzero()[:, 0]
        row_n = place_N[here_n] - first
        own_n = logits_MV[row_n, labels_N[here_n]]
        logp_N[here_n] = own_n - logits_MV.logsumexp(-1)[row_n]
        best_N[here_n] = own_n == logits_MV.amax(-1)[row_n]
    right = [bool(part.all()) for part in best_N.cpu().split(sizes)]
    return [part.tolist() for part in logp_N.cpu().split(sizes)], right
