"""The head against the plain log-softmax, in every dtype, however it is cut into chunks."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from danlu.model import softmax
from danlu.model.head import Head
from danlu.model.softmax import plain_residual, plain_statistics, residual, statistics

WIDTH, VOCABULARY = 12, 53


def example(tokens: int, dtype: torch.dtype, seed: int = 0, tied: bool = False) -> tuple[Head, Tensor, Tensor, Tensor]:
    """A head, hidden states, labels and weights."""
    generator = torch.Generator().manual_seed(seed)
    embedding = nn.Embedding(VOCABULARY, WIDTH, dtype=dtype) if tied else None
    head = Head(WIDTH, VOCABULARY, embedding).to(dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(VOCABULARY, WIDTH, generator=generator))
    hidden = torch.randn(tokens, WIDTH, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(VOCABULARY, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator) * (torch.rand(tokens, generator=generator) > 0.3)
    return head, hidden, labels, weights


def gradients(loss: Tensor, head: Head, hidden: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.autograd.grad(loss, (hidden, head.weight))
    return found[0], found[1]


def relative(ours: Tensor, expected: Tensor) -> float:
    return ((ours.double() - expected.double()).norm() / expected.double().norm()).item()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(tokens=st.integers(1, 70), rows=st.integers(16, 80), tied=st.booleans(), seed=st.integers(0, 999))
def test_losses_and_gradients_are_the_plain_ones_in_float64(tokens: int, rows: int, tied: bool, seed: int) -> None:
    head, hidden, labels, weights = example(tokens, torch.float64, seed, tied)
    head.chunk_bytes = rows * VOCABULARY * 8
    expected_logp = head.logits(hidden).log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    expected = -(expected_logp * weights).sum() * 0.37
    wanted = gradients(expected, head, hidden)
    nll = head(hidden, labels, weights)
    logp = head(hidden, labels, needs="logp")
    for loss in (nll.nll * 0.37, -(logp.logp * weights).sum() * 0.37):
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for ours, plain in zip(gradients(loss, head, hidden), wanted, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    logits = head.logits(hidden).detach()
    for output in (nll, logp):
        torch.testing.assert_close(output.logp, expected_logp, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output.lse, logits.logsumexp(-1), rtol=1e-12, atol=1e-12)
        assert torch.equal(output.correct, logits.argmax(-1) == labels)
    torch.testing.assert_close(logp.entropy, torch.distributions.Categorical(logits=logits).entropy())


def test_numerical_gradients_agree() -> None:
    head, hidden, labels, _ = example(7, torch.float64)
    head.chunk_bytes = 16 * VOCABULARY * 8
    assert torch.autograd.gradcheck(lambda h: head(h, labels, needs="logp").logp, hidden)


def test_gradients_of_a_sum_are_given_once() -> None:
    head, hidden, labels, weights = example(7, torch.float32)
    nll = head(hidden, labels, weights).nll
    nll.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="forward pass again"):
        nll.backward()


@pytest.mark.parametrize("needs", ["nll", "logp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_no_further_from_float64_than_the_plain_path(dtype: torch.dtype, needs: Any) -> None:
    head, hidden, labels, weights = example(200, dtype)
    head.chunk_bytes = 64 * VOCABULARY * dtype.itemsize
    exact, states = Head(WIDTH, VOCABULARY).double(), hidden.detach().double().requires_grad_()
    exact.load_state_dict(head.state_dict())
    truth = exact(states, labels, weights).nll
    plain = (F.cross_entropy(head.logits(hidden).float(), labels, reduction="none") * weights).sum()
    out = head(hidden, labels, weights, needs)
    ours = out.nll if needs == "nll" else -(out.logp * weights).sum()
    assert out.logp.dtype == torch.float32
    assert relative(ours, truth) <= max(2 * relative(plain, truth), 1e-6)
    for got, usual, best in zip(
        gradients(ours, head, hidden), gradients(plain, head, hidden), gradients(truth, exact, states), strict=True
    ):
        assert got.dtype == dtype
        assert relative(got, best) <= 1.25 * relative(usual, best) + 1e-6


def test_unlikely_labels_and_sure_predictions_stay_finite() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        head, hidden, labels, _ = example(40, dtype)
        output = head(hidden * 300, labels)
        output.nll.backward()
        assert output.nll.isfinite() and output.logp.min() < -150 and hidden.grad.isfinite().all()
        expected = head.logits(hidden * 300).float().log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
        torch.testing.assert_close(output.logp, expected, rtol=1e-5, atol=1e-3)


def test_without_gradients_losses_come_without_them() -> None:
    head, hidden, labels, weights = example(20, torch.float32)
    learnt = head(hidden, labels, weights)
    with torch.no_grad():
        seen = head(hidden, labels, weights)
    assert not seen.nll.requires_grad and seen.entropy is not None
    torch.testing.assert_close(seen.nll, learnt.nll.detach())
    torch.testing.assert_close(seen.logp, learnt.logp)


def test_no_targets_give_no_loss_and_zero_gradients() -> None:
    head, hidden, labels, weights = example(0, torch.float32)
    for needs in ("nll", "logp"):
        output = head(hidden, labels, weights, needs)
        loss = output.nll if needs == "nll" else output.logp.sum()
        assert loss == 0
        assert gradients(loss, head, hidden)[1].eq(0).all()


def test_a_tied_head_moves_with_its_embedding() -> None:
    embedding = nn.Embedding(VOCABULARY, WIDTH)
    head = Head(WIDTH, VOCABULARY, embedding)
    assert list(head.parameters()) == []
    embedding.weight = nn.Parameter(torch.ones(VOCABULARY, WIDTH))
    assert head.logits(torch.ones(1, WIDTH)).eq(WIDTH).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_way_to_the_softmax_gives_the_plain_one(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    monkeypatch.setattr(softmax, "BLOCK_BYTES", 4 * 97 * 4)  # several blocks, the last one smaller
    generator = torch.Generator().manual_seed(3)
    for rows, width in ((1, 1), (5, 97), (9, 10_000), (0, 7)):
        logits = (torch.randn(rows, width, generator=generator) * 4).to(dtype).to(device)
        labels = torch.randint(width, (rows,), generator=generator).to(device)
        c = torch.randn(rows, generator=generator).to(device)
        wanted = plain_statistics(logits, labels)
        for ours, plain in zip(statistics(logits, labels), wanted, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-5)
        overwritten, expected = logits.clone(), logits.clone()
        for ours, plain in zip(residual(overwritten, labels, c)[:3], plain_residual(expected, labels, c), strict=False):
            torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(overwritten, expected)


@pytest.mark.parametrize("needs", ["nll", "logp"])
def test_a_frozen_weight_costs_no_gradient(needs: Literal["nll", "logp"]) -> None:
    found = []
    for frozen in (False, True):
        torch.manual_seed(0)
        head = Head(8, 30)
        head.chunk_bytes = 16 * 30 * 4
        head.requires_grad_(not frozen)
        hidden = torch.randn(40, 8, requires_grad=True)
        out = head(hidden, torch.randint(0, 30, (40,)), needs=needs)
        value = out.nll if out.nll is not None else out.logp.square().sum()
        value.backward()
        assert (head.weight.grad is None) == frozen
        found.append(hidden.grad)
    assert torch.equal(found[0], found[1])
