"""Prints, for each case, how far outputs and gradients of the attention kernels lie from a plain softmax in float64.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from danlu.model.attention_cuda import document_attention, spans

CASES = {
    "one document, heads in fours": (300, 4, 1, 64, [0, 300, 300], None),
    "documents that end inside tiles": (300, 4, 1, 64, [0, 7, 130, 131, 290, 300], None),
    "a window": (517, 4, 2, 64, [0, 7, 130, 131, 290, 517, 517], 50),
    "no grouping": (200, 3, 3, 64, [0, 20, 100, 200], None),
    "six heads a key, packed by twos": (200, 12, 2, 64, [0, 20, 100, 200], None),
    "heads of 128": (150, 2, 1, 128, [0, 1, 70, 150], None),
}


def plain(q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, begin: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q_NHD.shape[1] // x.shape[1], 1) for x in (k_NKD, v_NKD))
    scores_HNM = torch.einsum("nhd,mhd->hnm", q_NHD, k) * q_NHD.shape[-1] ** -0.5
    place = torch.arange(len(q_NHD), device=begin.device)
    seen = (place <= place[:, None]) & (place >= begin[:, None])
    return torch.einsum("hnm,mhd->nhd", scores_HNM.masked_fill(~seen, -torch.inf).softmax(-1), v)


def errors(tokens: int, heads: int, key_heads: int, size: int, ends: list[int], window: int | None) -> list[float]:
    """Relative distances of the output and of the gradients of q, k and v."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    qkv = torch.randn(tokens, key_heads, heads // key_heads + 2, size, device=device)
    q, k, v = qkv[:, :, :-2].reshape(tokens, heads, size), qkv[:, :, -2], qkv[:, :, -1]
    begin, end = spans(torch.tensor(ends, dtype=torch.int32, device=device), tokens, window)
    upstream = torch.randn(tokens, heads, size, device=device)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        kernels = dtype == torch.float32
        out = document_attention(*leaves, begin, end)[0] if kernels else plain(*leaves, begin)
        found.append([out, *torch.autograd.grad(out, leaves, upstream.to(dtype))])
    return [float((got - exact).norm() / exact.norm()) for got, exact in zip(*found, strict=True)]


if __name__ == "__main__":
    print(json.dumps({name: errors(*case) for name, case in CASES.items()}))
