"""Weights in whole numbers of 8 or 4 bits, for inference: kept small in memory and multiplied as they are stored.

8 bits: one scale a row, symmetric. 4 bits: one scale and one offset for each 64 or 32 values of a row. Both are rounded
to nearest, without data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.attention import HALF
from danlu.model.decoder import Decoder
from danlu.model.projection import Quantised

INT8_BITS, INT4_BITS = 8.0, 4.5
"""A value, in large matrices; with groups of 32 values, 5."""
_GROUPS = (64, 32)


class Int8(Quantised):
    """A weight [out, in] in 8 bits with a scale for each row.

    A CPU rounds each row of x to 8 bits too, so that the product is one of integers; no row's result depends on others.
    """

    values: Tensor
    scales: Tensor

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)  # int8 [out, in]
        self.register_buffer("scales", scales)  # float32 [out]

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if x.is_cuda:
            return self._on_gpu(rows, bias).view(*x.shape[:-1], -1)
        y = self._in_integers(rows).to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    def gated(self, x_1D: Tensor) -> Tensor:
        """silu(x G^T) * (x U^T) [1, out / 2], where the weight holds G above U; by a kernel for GPUs."""
        from danlu.model.integers_cuda import int8_gated

        return int8_gated(x_1D, self.values, self.scales)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        if not self.values.is_cuda or dtype not in HALF:
            return (self.values * self.scales[:, None]).to(dtype)
        from danlu.model.integers_cuda import int8_dequantised

        return int8_dequantised(self.values, self.scales, dtype)

    def _on_gpu(self, x: Tensor, bias: Tensor | None) -> Tensor:
        from danlu.model.integers_cuda import SKINNY, int8_product

        if len(x) <= SKINNY and x.dtype in HALF:
            return int8_product(x, self.values, self.scales, bias)
        return F.linear(x, self.dequantised(x.dtype), bias)

    def _in_integers(self, x: Tensor) -> Tensor:
        scale = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True, dtype=torch.float32).div_(127)
        scale.clamp_(min=torch.finfo(torch.float32).tiny)
        whole = torch._int_mm(torch.round(x / scale).to(torch.int8), self.values.t())
        return torch.mul(whole, self.scales).mul_(scale)


class Int4(Quantised):
    """A weight [out, in] in 4 bits on a CPU, in the order in which torch's kernel reads it; that multiplies in bf16.

    A weight belongs to the device that it was made on; on a GPU it is an `Int4OnGPU`.
    """

    packed: Tensor
    scales: Tensor

    def __init__(self, packed: Tensor, scales: Tensor, group: int) -> None:
        super().__init__()
        self.group = group
        self.register_buffer("packed", packed)
        self.register_buffer(
            "scales", scales
        )  # bf16 [in / group, out, 2]: scale, and the value that level 8 stands for

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        y = product(x.reshape(-1, x.shape[-1]).bfloat16(), self.packed, self.group, self.scales)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        width = self.scales.shape[0] * self.group
        return self(torch.eye(width, dtype=torch.bfloat16, device=self.scales.device), None).t().to(dtype)


class Int8Embedding(nn.Module):
    """An embedding whose rows are those of an 8-bit weight [V, D], which a tied head may share."""

    def __init__(self, rows: Int8, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.dtype = rows, dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] of int64 [...]."""
        return (self.rows.values[tokens] * self.rows.scales[tokens][..., None]).to(self.dtype)


@torch.no_grad()
def to_int8(weight: Tensor) -> Int8:
    """The 8-bit form of a weight [out, in], on its device."""
    scales = weight.abs().amax(1).float().div_(127).clamp_(min=torch.finfo(torch.float32).tiny)
    return Int8(torch.round(weight / scales[:, None]).to(torch.int8), scales)


@torch.no_grad()
def to_int4(weight: Tensor) -> Quantised:
    """The 4-bit form of a weight [out, in], on its device; of 8 bits where the kernel does not take its shape."""
    rows, width = weight.shape
    group = next((group for group in _GROUPS if width % group == 0), None)
    if group is None or rows % 16:
        return to_int8(weight)
    values = weight.float().view(rows, -1, group)
    low, high = values.amin(-1), values.amax(-1)
    # Rounded to bf16 first, so that the levels fit the scales that are kept.
    scales = ((high - low) / 15).clamp(min=1e-6).bfloat16()
    middle = (low + 8 * scales.float()).bfloat16()
    levels = torch.round((values - middle.float()[..., None]) / scales.float()[..., None]).add_(8).clamp_(0, 15)
    if weight.is_cuda:
        from danlu.model.integers_cuda import pack

        return pack(levels, scales, middle)
    levels = levels.to(torch.int32).view(rows, width)
    kept = torch.stack((scales, middle), dim=-1).transpose(0, 1).contiguous()
    return Int4(torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1), kept, group)


def quantise_ends(decoder: Decoder) -> None:
    """Puts embedding and head in 8 bits; tied ones stay one."""
    head, embed = decoder.head, decoder.embed
    table = to_int8(head.weight.data)
    tied = head.weight is embed.weight
    decoder.embed = Int8Embedding(table if tied else to_int8(embed.weight.data), embed.weight.dtype)  # type: ignore[assignment]
    head.quantise(table)
