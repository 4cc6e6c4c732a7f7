"""SwiGLU as Triton kernels: what the compiler makes of the backward pass computes each half of the gradient for both.

Measured on an H200 at the 1B shape: 1.10 us a token as compiled, for 0.55 us of memory traffic. Imported where there
is a GPU only.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from danlu.model.dropout_cuda import begun, constants, kept

_BLOCK = 1024


@triton_op("danlu::swiglu", mutates_args={})
def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., F] of gate_up [..., 2 F], contiguous."""
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], width)
    rows = out.numel() // width
    wrap_triton(_swiglu_forward)[(rows, triton.cdiv(width, _BLOCK))](gate_up, out, width, block=_BLOCK)
    return out


@triton_op("danlu::swiglu_backward", mutates_args={})
def swiglu_backward(gate_up: Tensor, d_out: Tensor) -> Tensor:
    """The gradient of gate_up from that of the product, both contiguous."""
    d_gate_up = torch.empty_like(gate_up)
    rows, width = d_out.numel() // d_out.shape[-1], d_out.shape[-1]
    wrap_triton(_swiglu_backward)[(rows, triton.cdiv(width, _BLOCK))](
        gate_up, d_out, d_gate_up, gate_up, gate_up, width, **constants(0.0, width), again=False, block=_BLOCK
    )
    return d_gate_up


@triton_op("danlu::swiglu_again", mutates_args={})
def swiglu_again(gate_up: Tensor, d_out: Tensor, seed: Tensor | None, p: float) -> tuple[Tensor, Tensor]:
    """The same, and the product [..., F] itself, or, with a seed, `dropout_cuda.drop` of it."""
    d_gate_up, out = torch.empty_like(gate_up), torch.empty_like(d_out)
    rows, width = d_out.numel() // d_out.shape[-1], d_out.shape[-1]
    wrap_triton(_swiglu_backward)[(rows, triton.cdiv(width, _BLOCK))](
        gate_up, d_out, d_gate_up, out, gate_up if seed is None else seed, width, **constants(p, width),
        again=True, block=_BLOCK,
    )  # fmt: skip
    return d_gate_up, out


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, d_out: Tensor) -> Tensor:
    return swiglu_backward(*ctx.saved_tensors, d_out.contiguous())


swiglu.register_autograd(_differentiate, setup_context=_save)


@triton.jit
def _swiglu_forward(gate_up, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * block + tl.arange(0, block)
    inside = lane < width
    gate = tl.load(gate_up + row * 2 * width + lane, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + lane, mask=inside).to(tl.float32)
    tl.store(out + row * width + lane, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(  # type: ignore[no-untyped-def]
    gate_up, d_out, d_gate_up, out, seed, width, span: tl.constexpr, least: tl.constexpr, scale: tl.constexpr,
    again: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * block + tl.arange(0, block)
    inside = lane < width
    gate = tl.load(gate_up + row * 2 * width + lane, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + lane, mask=inside).to(tl.float32)
    d = tl.load(d_out + row * width + lane, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    d_gate = d * up * sigmoid * (1 + gate * (1 - sigmoid))
    d_gate_up += row * 2 * width + lane
    tl.store(d_gate_up, d_gate.to(d_gate_up.dtype.element_ty), mask=inside)
    tl.store(d_gate_up + width, (d * gate * sigmoid).to(d_gate_up.dtype.element_ty), mask=inside)
    if again:
        product = gate * sigmoid * up
        if least:
            lower, upper = begun(seed, row, span)
            product = tl.where(kept(lower, upper, lane, least), product * scale, 0.0)
        tl.store(out + row * width + lane, product.to(out.dtype.element_ty), mask=inside)
