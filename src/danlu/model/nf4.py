"""NF4: weights in 4 bits at the quantiles of a normal distribution, their scales in 8 bits.

Dettmers et al. 2023 (arXiv 2305.14314), in the layout of bitsandbytes: blocks of 64 values, the higher half of a byte
first; scales less their mean in blocks of 256, by the dynamic code of Dettmers et al. 2021 (arXiv 2110.02861).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from danlu.model.projection import Quantised

BLOCK, SCALES = 64, 256
BITS = 4 + 8 / BLOCK + 32 / (BLOCK * SCALES)  # a value
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Of the paper's appendix E."""
_CHUNK = 1 << 22  # values that are quantised at a time


def dynamic_code() -> Tensor:
    """The 256 levels of an 8-bit number [256]: sign, an exponent of ten of variable length, the rest linear."""
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)
        levels += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(levels), dtype=torch.float32)


class NF4(Quantised):
    """A weight [out, in] in 4.127 bits a value, given back as it is used."""

    packed: Tensor
    scales: Tensor
    coarse: Tensor
    mean: Tensor
    levels: Tensor
    code: Tensor

    def __init__(self, size: torch.Size, **held: Tensor) -> None:
        super().__init__()
        self.size = size
        tables = {"levels": torch.tensor(LEVELS), "code": dynamic_code()}
        for name, value in {**held, **tables}.items():
            self.register_buffer(name, value.to(held["packed"].device))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor
        if x.is_cuda:
            from danlu.model.nf4_cuda import nf4_product

            y = nf4_product(x, *self.held, self.size[0], False)
        else:
            y = _Product.apply(x, *self.held, self.size)
        return y if bias is None else y + bias

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        return dequantised(self.held, self.size, dtype)

    @property
    def held(self) -> tuple[Tensor, ...]:
        return self.packed, self.scales, self.coarse, self.mean, self.levels, self.code


@torch.no_grad()
def quantise(weight: Tensor) -> NF4:
    """The NF4 form of a weight [out, in], on its device.

    A block's scale is its greatest absolute value. Blocks are of the weight laid out row after row; the last ones are
    filled up with zeros.
    """
    flat = weight.reshape(-1)
    packed, scales = [], []
    middles = torch.tensor(LEVELS, device=weight.device)
    middles = (middles[1:] + middles[:-1]) / 2
    for values in flat.split(_CHUNK):
        blocks = F.pad(values.float(), (0, -len(values) % BLOCK)).view(-1, BLOCK)
        largest = blocks.abs().amax(1)
        level = torch.bucketize(blocks / largest.clamp(min=1e-38)[:, None], middles).to(torch.uint8)
        packed.append((level[:, ::2] << 4) | level[:, 1::2])
        scales.append(largest)
    scale = torch.cat(scales)
    mean = scale.mean()
    return NF4(weight.shape, packed=torch.cat(packed).view(-1), **_in_8_bits(scale - mean), mean=mean)


def _in_8_bits(values: Tensor) -> dict[str, Tensor]:
    blocks = F.pad(values, (0, -len(values) % SCALES)).view(-1, SCALES)
    coarse = blocks.abs().amax(1)
    code = dynamic_code().to(values.device)
    level = torch.bucketize(blocks / coarse.clamp(min=1e-38)[:, None], (code[1:] + code[:-1]) / 2)
    return {"scales": level.to(torch.uint8).view(-1)[: len(values)], "coarse": coarse}


def dequantised(held: Sequence[Tensor], size: torch.Size, dtype: torch.dtype) -> Tensor:
    """The weight of this size that `NF4.held` stands for."""
    # Tables and sums in float32, rounded once: the compiler makes one pass over 4 bits a value of it.
    packed, *_, levels, _ = held
    values = torch.stack((levels[(packed >> 4).int()], levels[(packed & 15).int()]), dim=-1)
    weight = (values.view(-1, BLOCK) * _scales(held)[:, None]).to(dtype).view(-1)
    return weight[: size.numel()].view(size)


def largest(held: Sequence[Tensor]) -> Tensor:
    """The weight's greatest absolute value, float32 []: its blocks' scales, of which each has one at ± 1, say it."""
    return _scales(held).abs().amax()


def _scales(held: Sequence[Tensor]) -> Tensor:
    _, scales, coarse, mean, _, code = held
    return code[scales.int()] * coarse.repeat_interleave(SCALES)[: len(scales)] + mean


class _Product(torch.autograd.Function):
    """x W^T; the backward pass makes W out of its 4 bits again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *held: Any) -> Tensor:
        ctx.save_for_backward(*held[:-1])
        ctx.size = held[-1]
        return F.linear(x, dequantised(held[:-1], held[-1], x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        packed, *rest = ctx.saved_tensors
        # The compiler computes equal expressions once and keeps what both passes use: 16 bits a value of every layer.
        # With this one made unlike the forward pass's, the weight is made again.
        weight = dequantised((packed ^ 0, *rest), ctx.size, d_y.dtype)
        return d_y @ weight, *[None] * 7
