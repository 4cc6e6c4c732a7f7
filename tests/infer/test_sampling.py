"""Sampling against transformers' logits processors on the same logits, and the draw against its distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from danlu.infer.sampling import History, candidates, choose, draw, penalise
from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError

VOCABULARY = 50


def reference(logits_V: torch.Tensor, ids: list[int], s: SamplingSettings) -> torch.Tensor:
    """The distribution that transformers samples from."""
    steps = LogitsProcessorList()
    if s.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
    if s.no_repeat_ngram:
        steps.append(NoRepeatNGramLogitsProcessor(s.no_repeat_ngram))
    steps.append(TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        steps.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        steps.append(TopPLogitsWarper(s.top_p))
    if s.min_p:
        steps.append(MinPLogitsWarper(s.min_p))
    return steps(torch.tensor([ids]), logits_V[None].clone())[0].softmax(-1)


def ours(logits_BV: torch.Tensor, histories: list[History], ranked: bool) -> torch.Tensor:
    logits_BV = logits_BV.clone()
    penalise(logits_BV, histories)
    weights_BC, ids_BC = candidates(logits_BV, [history.settings for history in histories], ranked)
    full = weights_BC if ids_BC is None else torch.zeros_like(logits_BV).scatter(1, ids_BC, weights_BC)
    return full / full.sum(-1, keepdim=True)


sampling = st.builds(
    SamplingSettings,
    temperature=st.floats(0.2, 2),
    top_k=st.sampled_from([0, 0, 1, 3, 20, 60]),
    top_p=st.sampled_from([1.0, 1.0, 0.1, 0.5, 0.9, 0.99]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    no_repeat_ngram=st.sampled_from([0, 1, 2, 3]),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(sampling, st.lists(st.integers(0, 9), min_size=1, max_size=30)), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    prompt_share=st.floats(0, 1),
)
def test_distributions_equal_transformers(
    rows: list[tuple[SamplingSettings, list[int]]], seed: int, prompt_share: float
) -> None:
    logits = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    histories = []
    for sampling, ids in rows:
        prompt = round(len(ids) * prompt_share)
        histories.append(History(sampling, ids[:prompt]))
        for token in ids[prompt:]:
            histories[-1].add(token)
    ranked = any(s.top_k or s.top_p < 1 for s, _ in rows)
    got = ours(logits, histories, ranked)
    for row, (sampling, ids) in enumerate(rows):
        torch.testing.assert_close(got[row], reference(logits[row], ids, sampling), rtol=1e-4, atol=1e-6)


def test_a_flat_distribution_over_a_large_vocabulary_is_cut_exactly() -> None:
    logits = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * 0.1  # 256 tokens hold about 6%
    rows = [SamplingSettings(temperature=1, top_p=0.9), SamplingSettings(temperature=1, top_k=2000, top_p=0.7)]
    got = ours(logits, [History(s, []) for s in rows], ranked=True)
    for row, s in enumerate(rows):
        torch.testing.assert_close(got[row], reference(logits[row], [0], s), rtol=1e-4, atol=1e-7)


def test_presence_and_frequency_count_the_answer_only() -> None:
    history = History(SamplingSettings(presence_penalty=0.5, frequency_penalty=0.25), [1, 1, 2])
    for token in (2, 3, 3, 3):
        history.add(token)
    logits = torch.zeros(2, 5)
    penalise(logits, [history, History(SamplingSettings(), [3])])
    assert logits.tolist() == [[0, 0, -0.75, -1.25, 0], [0, 0, 0, 0, 0]]


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(1))
    rows = [
        SamplingSettings(),
        SamplingSettings(temperature=1, seed=3),
        SamplingSettings(temperature=1, top_k=1),
        SamplingSettings(temperature=1e-6, min_p=0.5),
    ]
    chosen = choose(logits.clone(), [History(s, [0]) for s in rows])
    best = logits.argmax(-1).tolist()
    assert [chosen[0], chosen[2], chosen[3]] == [best[0], best[2], best[3]]
    alone = choose(logits[1:2].clone(), [History(rows[1], [0])])
    assert alone == chosen[1:2]


@pytest.mark.parametrize("extra", [{}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.2}])
def test_draws_follow_the_distribution(extra: dict[str, float]) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(5))
    s = SamplingSettings(temperature=0.9, seed=1, **extra)
    history, count = History(s, [0]), 3000
    times = np.bincount([choose(logits.clone(), [history])[0] for _ in range(count)], minlength=12)
    expected = reference(logits[0], [0], s).numpy().astype(np.float64)
    assert (times[expected == 0] == 0).all()
    kept = expected > 0
    chi2 = (((times - count * expected) ** 2)[kept] / (count * expected[kept])).sum()
    assert chi2 < 35  # 11 degrees of freedom: 0.02% of good generators are above


def test_draw_never_takes_a_column_without_weight() -> None:
    weights = torch.tensor([[0.0, 0.0, 0.3, 0.0, 0.7, 0.0]])
    for u in (0.0, 0.2999, 0.3, 0.31, 1 - 2**-53):
        assert draw(weights, [u]).item() in (2, 4)


def test_a_ban_of_every_token_bans_none() -> None:
    history = History(SamplingSettings(no_repeat_ngram=1), [0, 1, 2])
    assert choose(torch.tensor([[1.0, 3.0, 2.0]]), [history]) == [1]


@pytest.mark.parametrize("tiny", [{"temperature": 1e-300}, {"temperature": 1, "top_p": 1e-300}])
def test_the_likeliest_token_is_always_left(tiny: dict[str, float]) -> None:
    assert choose(torch.tensor([[1.0, 3.0, 2.0]]), [History(SamplingSettings(**tiny, top_k=10**40), [])]) == [1]


def test_nan_is_an_error_for_the_user() -> None:
    with pytest.raises(UserError, match="NaN"):
        choose(torch.tensor([[0.0, float("nan")]]), [History(SamplingSettings(), [0])])
