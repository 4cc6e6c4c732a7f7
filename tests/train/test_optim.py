"""The optimizers against torch's own, their decay groups, clipping, and formats below float32."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import tiny
import torch
from torch import nn

from danlu.train.muon import Muon, orthogonalise
from danlu.train.network import block_matrices
from danlu.train.optim import Optimizer, clip
from danlu.train.precision import LossScale, Masters
from danlu.train.settings import TrainSettings


class Whole:
    """A parameter that is one matrix."""

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def write(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        tensor.copy_(value)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_is_torchs(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mine = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(mine.detach().clone())
    ours = Muon([(mine, [Whole()])], lr=0.02, weight_decay=0.1)
    oracle = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        mine.grad = torch.randn(shape)
        theirs.grad = mine.grad.clone()
        ours.step()
        oracle.step()
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_muon_moves_fused_matrices_apart() -> None:
    """Each of q, k, v, gate and up moves as if it were a parameter of its own."""
    torch.manual_seed(0)
    decoder = tiny.decoder()
    settings = TrainSettings(optimizer="muon", learning_rate=0.02)
    masters = Masters(decoder, None)
    optimizer = Optimizer(settings, masters.parameters, block_matrices(decoder))
    apart = {part.on_disk: nn.Parameter(part.read(part.parameter).detach().clone()) for part in decoder.parts()}
    in_blocks = {part.on_disk for part in decoder.parts() if part.name.startswith("layers") and len(part.shape) == 2}
    oracle = torch.optim.Muon(
        [apart[name] for name in sorted(in_blocks)], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for parameter in decoder.parameters():
            parameter.grad = torch.randn_like(parameter)
        for part in decoder.parts():
            apart[part.on_disk].grad = part.read(part.parameter.grad).clone()
        optimizer.step(0.02)
        oracle.step()
    assert len(in_blocks) == 2 * 7
    for part in decoder.parts():
        if part.on_disk in in_blocks:
            torch.testing.assert_close(part.read(part.parameter), apart[part.on_disk], atol=1e-6, rtol=1e-5)


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(3, 64, 32)).float())
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_decay_spares_norms_and_biases() -> None:
    decoder = tiny.decoder()
    before = {name: parameter.detach().clone() for name, parameter in decoder.named_parameters()}
    optimizer = Optimizer(TrainSettings(weight_decay=0.5), Masters(decoder, None).parameters, {})
    for parameter in decoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    for name, parameter in decoder.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
    assert any(parameter.ndim == 1 for parameter in decoder.parameters())


def test_clip_is_torchs_and_undoes_the_loss_scale() -> None:
    torch.manual_seed(0)
    mine = [torch.randn(5, 3), torch.randn(7)]
    theirs = [nn.Parameter(torch.zeros_like(gradient)) for gradient in mine]
    for parameter, gradient in zip(theirs, mine, strict=True):
        parameter.grad = gradient.clone()
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    scaled = [gradient * 512.0 for gradient in mine]
    assert clip(scaled, 1.0, 512.0) == pytest.approx(float(expected))
    for gradient, parameter in zip(scaled, theirs, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_masters_keep_what_bf16_would_lose() -> None:
    layer = nn.Linear(4, 4, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    masters = Masters(layer, torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    for _ in range(16):  # each step alone is lost in bf16
        masters.parameters["weight"].sub_(2.0**-12)
        masters.publish(1)
    assert masters.parameters["weight"][0, 0].item() == 1.0 - 2.0**-8
    assert layer.weight[0, 0].item() == 1.0 - 2.0**-8


def test_gradients_add_up_in_float32() -> None:
    layer = nn.Linear(1, 1, bias=False)
    masters = Masters(layer, torch.bfloat16)
    for value in (1.0, 2.0**-10, 2.0**-10):
        layer(torch.tensor([[value]], dtype=torch.bfloat16)).sum().backward()
        assert layer.weight.grad is None
    (gradient,) = masters.gradients()
    assert gradient.dtype == torch.float32 and gradient.item() == 1.0 + 2.0**-9


def test_loss_scale() -> None:
    scale = LossScale(torch.float16)
    start = scale.value
    scale.update(False)
    assert scale.value == start / 2
    for _ in range(LossScale.PATIENCE):
        scale.update(True)
    assert scale.value == start
    other = LossScale(torch.float16)
    other.load(scale.state())
    assert other.value == start
    still = LossScale(torch.bfloat16)
    still.update(False)
    assert still.value == 1.0 and math.isfinite(still.value)


@pytest.mark.parametrize("states", ["float32", "8bit"])
def test_a_run_saved_before_its_first_update_goes_on(states: Literal["float32", "8bit"]) -> None:
    weights = {name: torch.ones(size) for name, size in (("norm", (8,)), ("matrix", (64, 128)))}
    optimizer = Optimizer(TrainSettings(optimizer_states=states), weights, {})
    assert optimizer.moments() == {}
    optimizer.load({}, 0)
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step(1e-2)
    assert all(bool((weight < 1).all()) for weight in weights.values())
    assert {name: set(held) for name, held in optimizer.moments().items()} == {
        "exp_avg": set(weights),
        "exp_avg_sq": set(weights),
    }
