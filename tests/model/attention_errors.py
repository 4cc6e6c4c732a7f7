"""Prints, for each case, how far outputs and gradients of the attention kernels lie from a plain softmax in float64.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor

from danlu.model.attention_cuda import document_attention, spans

SHARED = {
    "a prompt that two answers share": (300, 4, 1, 64, [0, 100, 170, 260, 300, 300], [0, 40, 0, 30, 0]),
    "short ones, and one that nearly all is": (
        280,
        4,
        2,
        64,
        [0, 7, 9, 20, 150, 151, 280, 280],
        [0, 5, 0, 0, 129, 0, 0],
    ),
    "long ones": (700, 4, 4, 64, [0, 330, 500, 700], [0, 290, 0]),
}
CASES = {
    "one document, heads in fours": (300, 4, 1, 64, [0, 300, 300], None),
    "documents that end inside tiles": (300, 4, 1, 64, [0, 7, 130, 131, 290, 300], None),
    "a window": (517, 4, 2, 64, [0, 7, 130, 131, 290, 517, 517], 50),
    "no grouping": (200, 3, 3, 64, [0, 20, 100, 200], None),
    "six heads a key, packed by twos": (200, 12, 2, 64, [0, 20, 100, 200], None),
    "heads of 128": (150, 2, 1, 128, [0, 1, 70, 150], None),
}


def views(ends: list[int], shared: list[int]) -> Tensor:
    """bool [N, N], whether a query (row) sees a key, document by document."""
    seen = torch.zeros(ends[-1], ends[-1], dtype=torch.bool)
    for number, (start, stop) in enumerate(pairwise(ends)):
        seen[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
        before = ends[number - 1] if shared[number] else 0
        seen[start:stop, before : before + shared[number]] = True
    return seen


def plain(q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, begin: Tensor, seen: Tensor | None = None) -> Tensor:
    k, v = (x.repeat_interleave(q_NHD.shape[1] // x.shape[1], 1) for x in (k_NKD, v_NKD))
    scores_HNM = torch.einsum("nhd,mhd->hnm", q_NHD, k) * q_NHD.shape[-1] ** -0.5
    place = torch.arange(len(q_NHD), device=begin.device)
    if seen is None:
        seen = (place <= place[:, None]) & (place >= begin[:, None])
    return torch.einsum("hnm,mhd->nhd", scores_HNM.masked_fill(~seen, -torch.inf).softmax(-1), v)


def errors(
    tokens: int, heads: int, key_heads: int, size: int, ends: list[int], window: int | None,
    shared: list[int] | None = None,
) -> list[float]:  # fmt: skip
    """Relative distances of the output and of the gradients of q, k and v."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    qkv = torch.randn(tokens, key_heads, heads // key_heads + 2, size, device=device)
    q, k, v = qkv[:, :, :-2].reshape(tokens, heads, size), qkv[:, :, -2], qkv[:, :, -1]
    asked = None if shared is None else torch.tensor(shared, dtype=torch.int32, device=device)
    begin, end, gap = spans(torch.tensor(ends, dtype=torch.int32, device=device), tokens, window, asked)
    seen = None if shared is None else views(ends, shared).to(device)
    upstream = torch.randn(tokens, heads, size, device=device)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        kernels = dtype == torch.float32
        out = document_attention(*leaves, begin, end, gap)[0] if kernels else plain(*leaves, begin, seen)
        found.append([out, *torch.autograd.grad(out, leaves, upstream.to(dtype))])
    return [float((got - exact).norm() / exact.norm()) for got, exact in zip(*found, strict=True)]


OF_128 = {
    "documents of all lengths, and empty ones": (777, 4, 4, [0, 1, 2, 130, 258, 300, 777, 777, 777, 777]),
    "grouped heads": (512, 8, 2, [0, 200, 512]),
    "many heads": (1024, 32, 32, [0, 200, 1024]),
    "a document of one token": (512, 4, 4, [0, 1, 512]),
    "the same plan with other documents": (777, 4, 4, [0, 300, 301, 777, 777, 777, 777, 777, 777, 777]),
}


def errors_of_cudnn(tokens: int, heads: int, key_heads: int, ends: list[int]) -> list[float]:
    """The same, in bf16, of cuDNN's."""
    from danlu.model.attention_cudnn import counts, cudnn_attention

    torch.manual_seed(0)
    qkv = torch.randn(tokens, key_heads, heads // key_heads + 2, 128, device="cuda").bfloat16()
    q, k, v = qkv[:, :, :-2].reshape(tokens, heads, 128).contiguous(), qkv[:, :, -2], qkv[:, :, -1]
    cu = torch.tensor(ends, dtype=torch.int32, device="cuda")
    used = len(set(ends)) - 1
    upstream = torch.randn(tokens, heads, 128, device="cuda").bfloat16()
    begin, _, _ = spans(cu, tokens, None)
    leaves = [x.requires_grad_() for x in (q.detach(), k.detach(), v.detach())]
    out = cudnn_attention(*leaves, cu, counts(used, len(cu) - 1, tokens))[0]
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    exact = plain(*doubles, begin)
    pairs = zip(
        [out, *torch.autograd.grad(out, leaves, upstream)],
        [exact, *torch.autograd.grad(exact, doubles, upstream.double())],
        strict=True,
    )
    return [float((got.double() - wanted).norm() / wanted.norm()) for got, wanted in pairs]


if __name__ == "__main__":
    found = {name: errors(*case) for name, case in CASES.items()}
    found |= {name: errors(*case[:-1], None, case[-1]) for name, case in SHARED.items()}
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9 and find_spec("cudnn") is not None:
        found |= {f"cuDNN, {name}": errors_of_cudnn(*case) for name, case in OF_128.items()}
    print(json.dumps(found))
