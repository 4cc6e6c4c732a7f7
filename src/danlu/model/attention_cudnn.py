"""Causal attention over documents that lie end to end, by cuDNN: the quicker one at heads of 128 on Hopper.

Measured on an H200, forward and backward, against `attention_cuda`: 21 to 27% less time with documents of 700 to 1,500
tokens, 8% with 300; at heads of 64 it is the slower one. It sums the gradients of queries in no fixed order, so it is
left aside where bits are to repeat. Imported where there is a GPU and nvidia-cudnn-frontend only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import cudnn
import torch
from torch import Tensor
from torch.library import custom_op

_FORMATS = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF}
_FLOAT, _INT = cudnn.data_type.FLOAT, cudnn.data_type.INT32
_PLANS = 64  # kept; a pair of them takes a twentieth of a second to make

Strides = tuple[int, int]
"""From token to token and from head to head; a head's numbers lie side by side."""


@dataclass(frozen=True)
class _Shape:
    """What a plan is made for."""

    documents: int
    longest: int
    tokens: int
    heads: int
    key_heads: int
    size: int
    dtype: torch.dtype
    strides: tuple[Strides, Strides, Strides]
    device: torch.device


class _Plan:
    """One operation: tensors of documents are described, then `run` with what they are."""

    def __init__(self, shape: _Shape) -> None:
        self.shape, self.handle = shape, _handle(shape.device)
        self.graph = cudnn.pygraph(
            io_data_type=_FORMATS[shape.dtype],
            intermediate_data_type=_FLOAT,
            compute_data_type=_FLOAT,
            handle=self.handle,
        )
        self.places: dict[str, Any] = {}
        """By name; `begin of NAME` says where documents begin in it."""

    def given(self, name: str, heads: int, strides: Strides) -> Any:
        """A tensor that goes in: [documents, heads, longest, size]."""
        sizes, steps = self._layout(heads, strides)
        made = self.graph.tensor(name=name, dim=sizes, stride=steps, data_type=_FORMATS[self.shape.dtype])
        return self._ragged(name, made)

    def made(self, name: str, tensor: Any, heads: int) -> None:
        """A tensor that comes out, contiguous."""
        sizes, steps = self._layout(heads, (heads * self.shape.size, self.shape.size))
        tensor.set_output(True).set_data_type(_FORMATS[self.shape.dtype]).set_dim(sizes).set_stride(steps)
        self._ragged(name, tensor)

    def statistics(self, tensor: Any = None) -> Any:
        """The logarithm of each softmax's sum, float32 [tokens, heads]."""
        shape = self.shape
        sizes = [shape.documents, shape.heads, shape.longest, 1]
        steps = [shape.heads * shape.longest, 1, shape.heads, 1]
        if tensor is None:
            tensor = self.graph.tensor(name="lse", dim=sizes, stride=steps, data_type=_FLOAT)
        else:
            tensor.set_output(True).set_data_type(_FLOAT).set_dim(sizes).set_stride(steps)
        return self._ragged("lse", tensor)

    def masked(self) -> dict[str, Any]:
        """Arguments that both operations share."""
        lengths = self._table("lengths", self.shape.documents)
        return {
            "attn_scale": self.shape.size**-0.5,
            "use_causal_mask": True,
            "use_padding_mask": True,
            "seq_len_q": lengths,
            "seq_len_kv": lengths,
        }

    def finish(self) -> None:
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()

    def run(self, cu: Tensor, **tensors: Tensor) -> None:
        """`cu` int32 [documents + 1]."""
        names = list(tensors)
        steps = _steps(tuple(tensors[name].stride(0) for name in names), cu.device)
        begins, lengths = (cu * steps).unbind(0), cu.diff()
        pack = {self.places["lengths"]: lengths}
        for name, begin in zip(names, begins, strict=True):
            pack |= {self.places[name]: tensors[name], self.places[f"begin of {name}"]: begin}
        held = torch.empty(max(1, self.graph.get_workspace_size()), dtype=torch.uint8, device=cu.device)
        cudnn.set_stream(handle=self.handle, stream=torch.cuda.current_stream(cu.device).cuda_stream)
        self.graph.execute(pack, held, handle=self.handle)

    def _layout(self, heads: int, strides: Strides) -> tuple[list[int], list[int]]:
        token, head = strides
        shape = self.shape
        return [shape.documents, heads, shape.longest, shape.size], [shape.longest * token, head, token, 1]

    def _ragged(self, name: str, tensor: Any) -> Any:
        tensor.set_ragged_offset(self._table(f"begin of {name}", self.shape.documents + 1))
        self.places[name] = tensor
        return tensor

    def _table(self, name: str, length: int) -> Any:
        self.places[name] = self.graph.tensor(name=name, dim=[length, 1, 1, 1], stride=[1, 1, 1, 1], data_type=_INT)
        return self.places[name]


def counts(documents: int, slots: int, longest: int) -> Tensor:
    """int32 [2] on the CPU, as `cudnn_attention` takes it: documents to look at and a bound of their lengths, both of
    few different values.
    """
    return torch.tensor([min(slots, 1 << (documents - 1).bit_length()), longest], dtype=torch.int32)


@custom_op("danlu::cudnn_attention", mutates_args=())
def cudnn_attention(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [N, H, D] of q [N, H, D] over k and v [N, K, D], and the logarithm of each softmax's sum [N, H].

    K divides H; q is contiguous, as cuDNN takes its gradient to begin where it does; of k and v a head's D numbers lie
    side by side. `cu` is int32 [slots + 1]. `counts` is on the CPU: a compiled graph does not depend on its values.
    """
    if not q.is_contiguous():
        raise ValueError(f"queries must be contiguous, not with strides {q.stride()}")
    documents, longest = counts.tolist()
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)
    _forward(_shape(q, k, v, documents, longest)).run(cu[: documents + 1], q=q, k=k, v=v, out=out, lse=lse)
    return out, lse


@custom_op("danlu::cudnn_attention_backward", mutates_args=())
def cudnn_attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, contiguous."""
    documents, longest = counts.tolist()
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    _backward(_shape(q, k, v, documents, longest)).run(
        cu[: documents + 1], q=q, k=k, v=v, out=out, d_out=d_out, lse=lse, dq=dq, dk=dk, dv=dv
    )
    return dq, dk, dv


def make_plans(device: torch.device) -> None:
    """Makes the plans of a small batch; raises what there is to raise where cuDNN is not there or declines them."""
    tokens, heads, size = 256, 2, 128
    strides = (heads * size, size)
    shape = _Shape(2, tokens, tokens, heads, heads, size, torch.bfloat16, (strides, strides, strides), device)
    _forward(shape)
    _backward(shape)


def _shape(q: Tensor, k: Tensor, v: Tensor, documents: int, longest: int) -> _Shape:
    q_steps, k_steps, v_steps = ((x.stride(0), x.stride(1)) for x in (q, k, v))
    (tokens, heads, size), strides = q.shape, (q_steps, k_steps, v_steps)
    return _Shape(documents, longest, tokens, heads, k.shape[1], size, q.dtype, strides, q.device)


@lru_cache(_PLANS)
def _forward(shape: _Shape) -> _Plan:
    plan = _Plan(shape)
    q, k, v = _inputs(plan)
    out, lse = plan.graph.sdpa(name="attention", q=q, k=k, v=v, generate_stats=True, **plan.masked())
    plan.made("out", out, shape.heads)
    plan.statistics(lse)
    plan.finish()
    return plan


@lru_cache(_PLANS)
def _backward(shape: _Shape) -> _Plan:
    plan = _Plan(shape)
    q, k, v = _inputs(plan)
    whole = shape.heads * shape.size, shape.size
    out, d_out = (plan.given(name, shape.heads, whole) for name in ("out", "d_out"))
    dq, dk, dv = plan.graph.sdpa_backward(
        name="gradients",
        q=q,
        k=k,
        v=v,
        o=out,
        dO=d_out,
        stats=plan.statistics(),
        max_total_seq_len_q=shape.tokens,
        max_total_seq_len_kv=shape.tokens,
        **plan.masked(),
    )
    for name, tensor, heads in (("dq", dq, shape.heads), ("dk", dk, shape.key_heads), ("dv", dv, shape.key_heads)):
        plan.made(name, tensor, heads)
    plan.finish()
    return plan


def _inputs(plan: _Plan) -> tuple[Any, Any, Any]:
    shape = plan.shape
    q, k, v = (
        plan.given(name, heads, strides)
        for name, heads, strides in zip(
            "qkv", (shape.heads, shape.key_heads, shape.key_heads), shape.strides, strict=True
        )
    )
    return q, k, v


@cache
def _handle(device: torch.device) -> Any:
    with torch.cuda.device(device):
        return cudnn.create_handle()


@cache
def _steps(steps: tuple[int, ...], device: torch.device) -> Tensor:
    """int32 [len(steps), 1]."""
    return torch.tensor(steps, dtype=torch.int32, device=device)[:, None]


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu, counts = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, cu, counts)


def _differentiate(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    return *cudnn_attention_backward(d_out.contiguous(), *ctx.saved_tensors), None, None


cudnn_attention.register_autograd(_differentiate, setup_context=_save)


@cudnn_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@cudnn_attention_backward.register_fake
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
