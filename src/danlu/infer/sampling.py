"""Choosing the next token: penalties, filters and the draw, for a whole batch at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError

CANDIDATES = 256  # top-p usually ends within so many tokens; where it does not, eight times as many are ranked
COLDEST = 1e-6  # a temperature that float32 holds and that leaves the likeliest token alone


class History:
    """What one sequence has said so far, as far as its settings need to know, and its own random numbers."""

    def __init__(self, settings: SamplingSettings, prompt: Sequence[int]) -> None:
        self.settings = settings
        self.random = random.Random(settings.seed)
        s = settings
        self.penalised = s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0
        self.greedy = s.temperature == 0 and not self.penalised and not s.no_repeat_ngram
        self.counts: dict[int, int] = {}  # token → times in the answer; a prompt's token is there with 0
        self.followers: dict[tuple[int, ...], list[int]] = {}  # n-gram without its end → its ends
        self.tail: list[int] = []  # the last n-1 tokens
        for token in prompt if self.penalised or s.no_repeat_ngram else ():
            self.add(token, answer=False)

    def add(self, token: int, answer: bool = True) -> None:
        """Takes note of one more token."""
        if self.penalised:
            self.counts[token] = self.counts.get(token, 0) + answer
        size = self.settings.no_repeat_ngram
        if size:
            self.tail.append(token)
            if len(self.tail) >= size:
                self.followers.setdefault(tuple(self.tail[-size:-1]), []).append(token)
                del self.tail[0]

    def banned(self) -> list[int]:
        """The tokens that would repeat an n-gram."""
        size = self.settings.no_repeat_ngram
        if not size or len(self.tail) < size - 1:
            return []
        return self.followers.get(tuple(self.tail), [])


def choose(logits_BV: Tensor, histories: Sequence[History]) -> list[int]:
    """The next token of each row. `logits_BV` is float32 and is changed in place by the penalties.

    Raises UserError when the model gives NaN.
    """
    penalise(logits_BV, histories)
    best_B, chosen_B = logits_BV.max(-1)
    if any(history.settings.temperature > 0 for history in histories):
        refuse_nan(best_B.isnan().tolist())
        chosen_B = _drawn(logits_BV, chosen_B, histories)
        return chosen_B.tolist()
    chosen, missing = torch.stack([chosen_B, best_B.isnan().long()]).tolist()  # a GPU is waited for once
    refuse_nan(missing)
    return chosen


def refuse_nan(missing: Sequence[int]) -> None:
    """Raises UserError where the logits of a row held NaN."""
    if any(missing):
        raise UserError("the model gives NaN instead of logits", do="use an earlier checkpoint, or load it in float32")


def _drawn(logits_BV: Tensor, chosen_B: Tensor, histories: Sequence[History]) -> Tensor:
    """`chosen_B` with a draw in the place of the likeliest token in rows whose temperature is above 0."""
    cut: list[int] = []
    plain: list[int] = []
    for row, history in enumerate(histories):
        s = history.settings
        if s.temperature > 0:
            (cut if s.top_k or s.top_p < 1 else plain).append(row)
    for rows in (plain, cut):
        if rows:
            settings = [histories[row].settings for row in rows]
            logits_bV = logits_BV if len(rows) == len(histories) else logits_BV[rows]
            weights_bC, ids_bC = candidates(logits_bV, settings, ranked=rows is cut)
            picked_b = draw(weights_bC, [histories[row].random.random() for row in rows])
            if ids_bC is not None:
                picked_b = ids_bC.gather(1, picked_b[:, None])[:, 0]
            chosen_B[rows] = picked_b
    return chosen_B


def penalise(logits_BV: Tensor, histories: Sequence[History]) -> None:
    """Applies repetition (Keskar et al. 2019), presence and frequency (OpenAI) penalties and n-gram bans in place."""
    rows = [row for row, history in enumerate(histories) if history.counts]
    if rows:
        seen = [histories[row].counts for row in rows]
        device = logits_BV.device
        sizes = torch.tensor([len(counts) for counts in seen], device=device)
        row_N = torch.tensor(rows, device=device).repeat_interleave(sizes)
        id_N = torch.tensor(list(chain.from_iterable(seen)), device=device)
        count_N = torch.tensor(list(chain.from_iterable(counts.values() for counts in seen)), device=device)
        per_row = [
            (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
            for s in (histories[row].settings for row in rows)
        ]
        factors_N3 = torch.tensor(per_row, dtype=torch.float32, device=device).repeat_interleave(sizes, 0)
        repetition_N, presence_N, frequency_N = factors_N3.unbind(1)
        logit_N = logits_BV[row_N, id_N]
        logit_N = torch.where(logit_N > 0, logit_N / repetition_N, logit_N * repetition_N)
        logits_BV[row_N, id_N] = logit_N - presence_N * (count_N > 0) - frequency_N * count_N
    for row, history in enumerate(histories):
        banned = history.banned()
        # A ban of the whole vocabulary would leave nothing to choose from.
        if banned and len(set(banned)) < logits_BV.shape[1]:
            logits_BV[row, banned] = float("-inf")


def candidates(logits_BV: Tensor, settings: Sequence[SamplingSettings], ranked: bool) -> tuple[Tensor, Tensor | None]:
    """Weights [B, C] of the tokens that temperature, top-k, top-p and min-p leave (0 elsewhere), and their ids [B, C].

    Unless `ranked`, there is neither top-k nor top-p; the candidates are the whole vocabulary and the ids are None.
    """
    vocabulary = logits_BV.shape[1]
    rows = [(max(s.temperature, COLDEST), min(s.top_k or vocabulary, vocabulary), s.top_p, s.min_p) for s in settings]
    table = torch.tensor(rows, dtype=torch.float32, device=logits_BV.device)
    temperature_B1, top_k_B1, top_p_B1, min_p_B1 = table[:, :, None].unbind(1)
    best_B1 = logits_BV.amax(-1, keepdim=True)
    probability_BV = ((logits_BV - best_B1) / temperature_B1).softmax(-1)
    if not ranked:
        floor_B1 = min_p_B1 * probability_BV.amax(-1, keepdim=True)
        return probability_BV.masked_fill(probability_BV < floor_B1, 0), None
    size = CANDIDATES
    p_BC, ids_BC = probability_BV.topk(min(size, vocabulary))
    while size < vocabulary and bool(((top_k_B1 > size) & (p_BC.sum(-1, keepdim=True) < top_p_B1)).any()):
        size *= 8
        p_BC, ids_BC = probability_BV.topk(min(size, vocabulary))
    rank_C = torch.arange(p_BC.shape[1], device=p_BC.device)
    kept_BC = p_BC.masked_fill(rank_C >= top_k_B1, 0)
    cut_by_k_B1 = top_k_B1 <= p_BC.shape[1]
    total_B1 = torch.where(cut_by_k_B1, kept_BC.sum(-1, keepdim=True), 1.0)
    before_BC = kept_BC.cumsum(-1) - kept_BC
    dropped_BC = (before_BC >= top_p_B1 * total_B1) & (top_p_B1 < 1) | (p_BC < min_p_B1 * p_BC[:, :1])
    return kept_BC.masked_fill(dropped_BC & (rank_C > 0), 0), ids_BC


def draw(weights_BC: Tensor, uniform: Sequence[float]) -> Tensor:
    """One column of each row, int64 [B], with a chance in proportion to its weight, for numbers in [0, 1)."""
    reach_BC = weights_BC.cumsum(-1, dtype=torch.float64)
    u_B1 = torch.tensor(uniform, dtype=torch.float64, device=weights_BC.device)[:, None]
    # `right` finds the first column whose reach exceeds the number, never one of weight 0; the factor guards the end.
    return torch.searchsorted(reach_BC, u_B1 * (reach_BC[:, -1:] * (1 - 1e-15)), right=True)[:, 0]
