"""Rotary positions (Su et al. 2021) with linear, llama3 and yarn scaling; halves turn as in Hugging Face's models."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from danlu.model.settings import ModelSettings, RopeScaling


class Rope:
    """Cosines and sines of positions, for one shape of head.

    Its frequencies stay float32 whatever the weights become: rounding them to bf16 would turn far positions wrong.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.frequencies, self.factor = inverse_frequencies(settings)
        self._on: dict[torch.device, Tensor] = {}

    def __call__(self, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [B, T, 1, 1, head/2], float64 for float64 models and float32 for all others."""
        device = positions_BT.device
        if device not in self._on:
            self._on[device] = self.frequencies.to(device)
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        angles = positions_BT[..., None, None, None].to(precise) * self._on[device].to(precise)
        return angles.cos() * self.factor, angles.sin() * self.factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., head] with its halves (a, b) turned to (a cos - b sin, b cos + a sin), in x's dtype."""
    if not x.is_cuda and not torch.compiler.is_compiling():
        return _Rotation.apply(x, cos, sin)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class _Rotation(torch.autograd.Function):
    """The same in half the passes over memory, which is what it costs a CPU; back it turns the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(d, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    turned = torch.empty(x.shape, dtype=cos.dtype, device=x.device)
    (a, b), (first, second) = x.to(cos.dtype).chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-way)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=way)
    return turned.to(x.dtype)


def inverse_frequencies(settings: ModelSettings) -> tuple[Tensor, float]:
    """Radians a position for each pair of dimensions, float32 [head/2] on the CPU, and the factor on cos and sin."""
    size, scaling = settings.head_size, settings.rope_scaling
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size
    frequencies = 1.0 / settings.rope_theta**exponents
    if scaling is None or scaling.type == "dynamic":
        return frequencies, 1.0
    if scaling.type == "linear":
        return frequencies / scaling.factor, 1.0
    if scaling.type == "llama3":
        return _llama3(frequencies, scaling), 1.0
    factor = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0
    return _yarn(frequencies, scaling, settings.rope_theta), factor


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow frequencies divided, fast ones kept, a smooth step between (Llama 3.1)."""
    low, high = scaling.low_freq_factor or 1.0, scaling.high_freq_factor or 4.0
    turns = (scaling.original_max_positions or 0) * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def _yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Frequencies with many turns in the first training kept, with few divided, a ramp between (Peng et al. 2023)."""
    size = 2 * len(frequencies)

    def dimension(turns: float) -> float:
        """The dimension whose frequency makes so many turns within the first training's length."""
        return size * math.log((scaling.original_max_positions or 1) / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling.beta_fast or 32.0)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow or 1.0)), size - 1)
    steps = torch.arange(len(frequencies), dtype=torch.float32, device="cpu")
    divided = ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies / scaling.factor * divided + frequencies * (1 - divided)
