"""A decoding step on a CPU by few operations: of a small model, starting them costs more than what they compute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.infer.graphs import blocks_of, projections
from danlu.model.decoder import Attend, Block, Decoder, RMSNorm, gated
from danlu.model.rope import Rope


def fits(decoder: Decoder) -> bool:
    """Whether `next_hidden` computes it: on a CPU, rotary positions, no adapters."""
    return (
        not decoder.norm.weight.is_cuda
        and isinstance(decoder.places, Rope)
        and all(part.adapters is None for block in blocks_of(decoder) for part in projections(block))
    )


def next_hidden(decoder: Decoder, tokens_B: Tensor, positions_B: Tensor, attend: Attend) -> Tensor:
    """Hidden states [B, D] of one new token a row: what `Decoder.forward` gives."""
    embedded_BD = decoder.embed(tokens_B)
    x_B2D = torch.stack((embedded_BD, embedded_BD), dim=1)
    x_BD = x_B2D[:, 0]
    cos, sin = decoder.places(positions_B[:, None], x_BD.dtype)
    for layer, block in enumerate(blocks_of(decoder)):
        q_BKGD, k_BKD, v_BKD = _rotated(
            block, block.qkv.product(_normed(x_B2D, block.attention_norm), block.qkv.bias), cos, sin
        )
        o_B1HD = attend(layer, q_BKGD.flatten(1, 2)[:, None], k_BKD[:, None], v_BKD[:, None])
        x_BD += block.o.product(o_B1HD.flatten(1).to(x_BD.dtype), block.o.bias)
        gate_up = block.gate_up.product(_normed(x_B2D, block.mlp_norm), block.gate_up.bias)
        x_BD += block.down.product(gated(gate_up, block.activation), block.down.bias)
    return _normed(x_B2D, decoder.norm)


def _normed(x_B2D: Tensor, norm: RMSNorm) -> Tensor:
    """`norm` of x, the first of the two: a layer norm of x beside -x, whose mean is 0, is one operation for six."""
    x_BD, negative_BD = x_B2D.unbind(1)
    torch.neg(x_BD, out=negative_BD)
    shape = x_B2D.shape[1:]
    return F.layer_norm(x_B2D, shape, norm.weight.expand(shape), None, norm.eps)[:, 0]


def _rotated(block: Block, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, K, G, D] and keys [B, K, D] turned together, in the dtype of cos, and values [B, K, D]."""
    grouped_BKGD = qkv.view(len(qkv), -1, block.queries + 2, block.head_size)
    turning, v_BKD = grouped_BKGD[:, :, :-1], grouped_BKGD[:, :, -1]
    if block.q_norm is not None and block.k_norm is not None:
        turning = torch.cat((block.q_norm(turning[:, :, :-1]), block.k_norm(turning[:, :, -1:])), dim=2)
    halves = turning.unflatten(-1, (2, -1))
    turned = halves * cos
    first, second = turned.unbind(-2)
    first.addcmul_(halves[..., 1, :], sin[..., 0, :], value=-1)
    second.addcmul_(halves[..., 0, :], sin[..., 0, :])
    turned = turned.flatten(-2)
    return turned[:, :, :-1], turned[:, :, -1], v_BKD
