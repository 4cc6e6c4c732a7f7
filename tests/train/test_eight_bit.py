"""AdamW in 8 bits: the map, both directions, against float64, compiled and plain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.train import eight_bit
from danlu.train.eight_bit import AdamW8bit, compiled_update, update
from danlu.train.moment_codes import BLOCK, FLOOR, FORMS, Codes, blocks_of

BETAS, RATE, EPS, DECAY = (0.9, 0.95), 1e-3, 1e-8, 0.1
SIZES = [(256,), (257,), (1,), (255,), (4_099,), (3, 1_000), (16, 256)]


def code_map(name: str) -> Tensor:
    """The 256 values of bitsandbytes, float64, in order."""
    functional = pytest.importorskip("bitsandbytes.functional")
    made: Tensor = functional.create_dynamic_map(signed=name == "exp_avg").double()
    return made


def half_cells(name: str) -> Tensor:
    """Of each code of the map, how far a value of its cell may lie away: half the cell's width, below it 1e-7."""
    bits = 0 if name == "exp_avg" else 1
    each = [torch.full((2 ** (power + bits),), 0.45 * 10.0 ** (power - 6) / 2 ** (power + bits)) for power in range(7)]
    positive = torch.cat([*each, torch.tensor([0.45 / 2 ** (6 + bits)])]).double()
    zero = torch.tensor([1e-7]).double()
    return torch.cat([positive[:-1].flip(0), zero, positive]) if name == "exp_avg" else torch.cat([zero, positive])


def stored(name: str, values: Tensor) -> Codes:
    """A moment [n] in 8 bits."""
    held = Codes.zeros(values.numel(), values.device)
    FORMS[name].write(held, blocks_of(values))
    return held


def _moments(optimizer: AdamW8bit, weight: Tensor) -> list[Tensor]:
    return [optimizer.moment(weight, name) for name in optimizer.kept(weight)]


@pytest.mark.parametrize("name", FORMS)
def test_the_map_is_bitsandbytes(name: str) -> None:
    every = Codes(torch.arange(256, dtype=torch.uint8).view(1, 256), torch.ones(1))
    torch.testing.assert_close(FORMS[name].read(every)[0].double(), code_map(name), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", FORMS)
@given(
    size=st.sampled_from([1, 255, 256, 257, 4_099]),
    span=st.floats(0, 12),
    power=st.integers(-45, 30),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_no_value_moves_by_more_than_half_a_cell(name: str, size: int, span: float, power: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=random) * 10 ** (span * (torch.rand(size, generator=random) - 1) + power)
    values[torch.rand(size, generator=random) < 0.1] = 0
    values = values if name == "exp_avg" else values.abs()
    held = stored(name, values)
    read, scales = FORMS[name].read(held).double().view(-1)[:size], held.scales.double()
    assert (scales.abs() >= FLOOR).all()
    relative = values.double() / scales.repeat_interleave(BLOCK)[:size]
    mine = read / scales.repeat_interleave(BLOCK)[:size]
    codes = held.codes.view(-1)[:size].int()
    allowed = half_cells(name)[codes]
    if name == "exp_avg":  # the map ends before -1
        allowed = torch.where(codes == 0, 1 + code_map(name)[0], allowed)
    else:  # and what is nearest to 0 is the least level here
        assert codes.min() >= 1
        allowed = torch.where(codes == 1, code_map(name)[1], allowed)
    assert ((mine - relative).abs() <= allowed * (1 + 1e-4) + 3e-6 * relative.abs()).all()
    nearest = (relative[:, None] - code_map(name)).abs().argmin(1)
    assert ((codes - nearest).abs() <= 1).all()
    # Nothing but what lies where two powers of ten meet has another code than the nearest one.
    inside = (relative.abs().log10() % 1).sub(0.5).abs() < 0.2
    inside &= (relative.abs() > 1e-4) & ((relative - code_map(name)[nearest]).abs() < half_cells(name)[nearest] * 0.99)
    assert (codes == nearest)[inside].all()


@pytest.mark.parametrize("name", FORMS)
def test_what_is_read_is_written_to_the_bit(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(1_000, BLOCK, generator=random) * 10 ** (6 * torch.rand(1_000, BLOCK, generator=random) - 9)
    held = stored(name, (values if name == "exp_avg" else values.square()).view(-1))
    again = stored(name, FORMS[name].read(held).view(-1))
    assert torch.equal(held.codes, again.codes)
    assert torch.equal(held.scales, again.scales)


def test_a_greatest_value_is_exact_whatever_its_sign() -> None:
    values = torch.linspace(-0.5, 0.5, BLOCK)
    for greatest in (3.0, -3.0):
        values[7] = greatest
        assert FORMS["exp_avg"].read(stored("exp_avg", values))[0, 7] == greatest
    values[8] = 3.0  # and the map ends just before its opposite
    assert FORMS["exp_avg"].read(stored("exp_avg", values))[0, 7] == pytest.approx(-3, rel=0.01)


def float64_adamw(weights: Tensor, moments: dict[str, Tensor], gradient: Tensor, step: int) -> Tensor:
    """One step of AdamW (Loshchilov and Hutter 2019), which changes the moments."""
    for name, beta, what in (("exp_avg", BETAS[0], gradient), ("exp_avg_sq", BETAS[1], gradient.square())):
        moments[name] = beta * moments[name] + (1 - beta) * what
    first, second = (moments[name] / (1 - beta**step) for name, beta in zip(FORMS, BETAS, strict=True))
    return weights * (1 - RATE * DECAY) - RATE * first / (second.sqrt() + EPS)


@pytest.mark.parametrize("alone", [2, 1 << 23])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_step_is_adamw_from_the_moments_that_are_held(
    size: tuple[int, ...], alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bit, "ALONE", alone)
    random = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(size, generator=random))
    optimizer = AdamW8bit([{"params": [weight], "weight_decay": DECAY}], lr=RATE, betas=BETAS, eps=EPS)
    held = {name: torch.zeros(size).double() for name in FORMS}
    for step in range(1, 5):
        weight.grad = torch.randn(size, generator=random) * 10.0 ** (-2 * step)
        expected = float64_adamw(weight.detach().double(), held, weight.grad.double(), step)
        optimizer.step()
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-8)
        kept = {name: optimizer.moment(weight, name) for name in optimizer.kept(weight)}
        for name, moment in held.items():
            assert kept[name].shape == size
            assert (kept[name] - moment).abs().max() <= moment.abs().max() * half_cells(name).max() * 1.001
        held = {name: moment.double() for name, moment in kept.items()}


def test_a_regression_ends_where_float32_does() -> None:
    random = torch.Generator().manual_seed(0)
    inputs, truth = torch.randn(256, 80, generator=random), torch.randn(80, 60, generator=random)
    ends = []
    for kind in ("8bit", "float32"):
        weight = torch.nn.Parameter(torch.zeros(80, 60))
        group = [{"params": [weight], "weight_decay": 0.0}]
        optimizer = (
            AdamW8bit(group, lr=1e-2, betas=BETAS, eps=EPS)
            if kind == "8bit"
            else torch.optim.AdamW(group, lr=1e-2, betas=BETAS, eps=EPS)
        )
        for _ in range(300):
            loss = (inputs @ (weight - truth)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(weight.detach())
    first = truth.norm()
    assert (ends[1] - truth).norm() < 0.2 * first
    assert (ends[0] - ends[1]).norm() < 0.02 * first


def test_an_unseen_weight_stays_and_takes_its_first_gradient_like_any_other() -> None:
    weight = torch.nn.Parameter(torch.ones(16, BLOCK))
    optimizer = AdamW8bit([{"params": [weight]}], lr=RATE, betas=BETAS, eps=EPS)
    for step in range(1, 4):
        weight.grad = torch.zeros(16, BLOCK)
        weight.grad[0, 0] = 1.0
        weight.grad[1] = float(step == 3)
        optimizer.step()
        if step < 3:
            assert torch.equal(weight[1:], torch.ones(15, BLOCK))
            assert torch.equal(weight[0, 1:], torch.ones(BLOCK - 1))
    rate = RATE * (1 - 0.9) / (1 - 0.9**3) / ((1 - 0.95) / (1 - 0.95**3)) ** 0.5
    torch.testing.assert_close(weight[1], torch.full((BLOCK,), 1 - rate))


def test_parameters_joined_and_alone_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> list[Tensor]:
        random = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(size, generator=random)) for size in SIZES]
        optimizer = AdamW8bit([{"params": weights, "weight_decay": DECAY}], lr=RATE, betas=BETAS, eps=EPS)
        for step in range(4):
            for number, weight in enumerate(weights):  # some have fewer steps behind them
                weight.grad = torch.randn(weight.shape, generator=random) if step or number % 2 else None
            optimizer.step()
        return [tensor for weight in weights for tensor in (weight.detach(), *_moments(optimizer, weight))]

    joined = trained()
    monkeypatch.setattr(eight_bit, "TOGETHER", 600)
    few = trained()
    monkeypatch.setattr(eight_bit, "ALONE", 1)
    alone = trained()
    for tensors in zip(joined, few, alone, strict=True):
        assert torch.equal(tensors[0], tensors[1])
        assert torch.equal(tensors[0], tensors[2])


def test_one_compiled_graph_serves_all_sizes_and_steps_and_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> tuple[list[Tensor], list[Tensor]]:
        random = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(rows, BLOCK, generator=random)) for rows in (17, 40, 90, 16)]
        groups = [{"params": weights[:2], "weight_decay": DECAY}, {"params": weights[2:]}]
        optimizer = AdamW8bit(groups, lr=RATE, betas=BETAS, eps=EPS)
        for step in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=random)
            optimizer.param_groups[0]["lr"] = RATE / (step + 1)
            optimizer.step()
        return weights, [value for weight in weights for value in _moments(optimizer, weight)]

    plain = trained()
    monkeypatch.setattr(eight_bit, "ALONE", 40 * BLOCK)
    compiled = torch.compile(update, fullgraph=True)
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(eight_bit, "_compiled", lambda: compiled)
    monkeypatch.setattr(eight_bit, "update", compiled_update)  # as a GPU does it
    weights, moments = trained()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for one, other in zip(weights, plain[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(moments, plain[1], strict=True):
        assert (one - other).abs().max() <= other.abs().max() * 0.015
        assert ((one - other).abs() > other.abs() * 1e-5).float().mean() < 1e-3
