"""Products that add their weights' gradients to a sum: against float64, with masters, compiled and recomputed."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from danlu.model.head import Head
from danlu.model.projection import Projection
from danlu.train.precision import Masters


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(32))
        self.up = Projection(32, {"up": 48}, bias=True)
        self.down = Projection(48, {"down": 32})

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x * self.norm)))


def _layer() -> Layer:
    torch.manual_seed(0)
    return Layer()


def _inputs(count: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 16, 32) for _ in range(count)]


def _reference(inputs: list[Tensor]) -> dict[str, Tensor]:
    layer = _layer().double()
    for x in inputs:
        layer(x.double()).square().sum().backward()
    return {name: value.grad for name, value in layer.named_parameters() if value.grad is not None}


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def test_the_gradients_of_several_micro_batches_are_summed_in_float32() -> None:
    inputs, layer = _inputs(4), _layer()
    masters = Masters(layer, torch.bfloat16)
    for x in inputs:
        layer(x.bfloat16()).float().square().sum().backward()
    gradients = {name: master.grad for name, master in masters.parameters.items()}
    assert layer.up.weight.grad is None and gradients["up.weight"] is layer.up.gradient_sum
    for name, wanted in _reference(inputs).items():
        found = gradients[name]
        assert found is not None and found.dtype == torch.float32
        assert _distance(found, wanted) < 0.01, name


def test_a_new_step_begins_at_zero_and_counts_nothing_twice() -> None:
    layer = _layer()
    masters = Masters(layer, torch.bfloat16)
    first, second = _inputs(2)
    layer(first.bfloat16()).float().square().sum().backward()
    masters.clear_gradients()
    assert all(not bool(gradient.any()) for gradient in masters.gradients())
    layer(second.bfloat16()).float().square().sum().backward()
    gradient = masters.parameters["down.weight"].grad
    assert gradient is not None and _distance(gradient, _reference([second])["down.weight"]) < 0.01


def test_two_forward_passes_may_come_before_both_backward_passes() -> None:
    layer, inputs = _layer(), _inputs(2)
    masters = Masters(layer, torch.bfloat16)
    losses = [layer(x.bfloat16()).float().square().sum() for x in inputs]
    torch.stack(losses).sum().backward()
    gradient = masters.parameters["up.weight"].grad
    assert gradient is not None and _distance(gradient, _reference(inputs)["up.weight"]) < 0.01


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_and_recomputed_it_is_the_same(recompute: bool) -> None:
    found = []
    for compiled in (False, True):
        layer, x = _layer(), _inputs(1)[0].bfloat16().requires_grad_()
        masters = Masters(layer, torch.bfloat16)
        if compiled:
            layer.compile(fullgraph=True, dynamic=False)
        y = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        y.float().square().sum().backward()
        found.append([x.grad, *(master.grad for master in masters.parameters.values())])
    for plain, quick in zip(*found, strict=True):
        assert plain is not None and quick is not None and _distance(quick, plain.double()) < 0.01


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("needs", ["nll", "logp"])
@pytest.mark.parametrize("chunk_bytes", [None, 64 * 2 * 40])
def test_the_head_adds_its_gradient_chunk_by_chunk(
    tied: bool, needs: Literal["nll", "logp"], chunk_bytes: int | None
) -> None:
    def loss(module: nn.ModuleDict, dtype: torch.dtype) -> Tensor:
        hidden_ND = module["embed"](tokens_N).to(dtype)
        out = module["head"](hidden_ND, tokens_N.roll(1), weights_N, needs)
        return out.nll if needs == "nll" else -(out.logp * weights_N).sum()

    torch.manual_seed(0)
    tokens_N, weights_N = torch.randint(0, 64, (100,)), torch.rand(100)
    embed = nn.Embedding(64, 32)
    module = nn.ModuleDict({"embed": embed, "head": Head(32, 64, embed if tied else None)})
    module["head"].chunk_bytes = chunk_bytes
    exact = copy.deepcopy(module).double()
    exact["head"]._tied = (exact["embed"],) if tied else (None,)
    loss(exact, torch.float64).backward()
    masters = Masters(module, torch.bfloat16)
    for _ in range(2):
        loss(module, torch.bfloat16).backward()
    for name, wanted in exact.named_parameters():
        gradient = masters.parameters[name].grad
        assert gradient is not None and _distance(gradient, 2 * wanted.grad) < 0.02, name


def test_a_loss_that_is_not_differentiated_is_refused() -> None:
    torch.manual_seed(0)
    head, hidden_ND = Head(32, 64), torch.randn(10, 32).bfloat16().requires_grad_()
    masters = Masters(head, torch.bfloat16)
    head(hidden_ND, torch.arange(10)).nll.backward()
    masters.sum_gradients()
    head(hidden_ND, torch.arange(10))
    with pytest.raises(RuntimeError, match="ask for `logp`"):
        masters.sum_gradients()
    masters.clear_gradients()
    masters.sum_gradients()


def test_with_gradients_and_without_a_product_with_a_bias_is_the_same() -> None:
    layer, x = _layer(), _inputs(1)[0].bfloat16()
    layer.up.bias.data.normal_()
    Masters(layer, torch.bfloat16)
    with torch.no_grad():
        expected = layer.up(x)
    assert torch.equal(layer.up(x), expected)


def test_a_factor_on_the_loss_of_the_head_is_refused() -> None:
    torch.manual_seed(0)
    head, hidden_ND = Head(32, 64), torch.randn(10, 32).bfloat16().requires_grad_()
    Masters(head, torch.bfloat16)
    out = head(hidden_ND, torch.arange(10))
    with pytest.raises(RuntimeError, match="goes into its weights"):
        (2 * out.nll).backward()


def test_without_gradients_and_with_frozen_weights_nothing_is_summed() -> None:
    layer = _layer()
    layer.down.weight = nn.Parameter(layer.down.weight.detach().bfloat16(), requires_grad=False)
    Masters(layer, torch.bfloat16)
    assert layer.down.gradient_sum is None and layer.up.gradient_sum is not None
    with torch.no_grad():
        layer(_inputs(1)[0].bfloat16())
    assert not bool(layer.up.gradient_sum.any())
    assert not any("gradient_sum" in name for name in layer.state_dict())
