"""The attention kernels, run by Triton's interpreter where there is no GPU, against a plain softmax in float64."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

CASES = {
    "one document, heads in fours": (300, 4, 1, 64, [0, 300, 300], None),
    "documents that end inside tiles": (300, 4, 1, 64, [0, 7, 130, 131, 290, 300], None),
    "a window": (517, 4, 2, 64, [0, 7, 130, 131, 290, 517, 517], 50),
    "no grouping": (200, 3, 3, 64, [0, 20, 100, 200], None),
    "six heads a key, packed by twos": (200, 12, 2, 64, [0, 20, 100, 200], None),
    "heads of 128": (150, 2, 1, 128, [0, 1, 70, 150], None),
}


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds: pip install triton")
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv("TRITON_INTERPRET", "1")
        yield importlib.import_module("danlu.model.attention_cuda")


def plain(q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, begin: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q_NHD.shape[1] // x.shape[1], 1) for x in (k_NKD, v_NKD))
    scores_HNM = torch.einsum("nhd,mhd->hnm", q_NHD, k) * q_NHD.shape[-1] ** -0.5
    place = torch.arange(len(q_NHD), device=begin.device)
    seen = (place <= place[:, None]) & (place >= begin[:, None])
    return torch.einsum("hnm,mhd->nhd", scores_HNM.masked_fill(~seen, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(kernels: ModuleType, case: str) -> None:
    tokens, heads, key_heads, size, ends, window = CASES[case]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    qkv = torch.randn(tokens, key_heads, heads // key_heads + 2, size, device=device)
    q, k, v = qkv[:, :, :-2].reshape(tokens, heads, size), qkv[:, :, -2], qkv[:, :, -1]
    begin, end = kernels.spans(torch.tensor(ends, dtype=torch.int32, device=device), tokens, window)
    upstream = torch.randn(tokens, heads, size, device=device)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        ours = dtype == torch.float32
        out = kernels.document_attention(*leaves, begin, end)[0] if ours else plain(*leaves, begin)
        found.append([out, *torch.autograd.grad(out, leaves, upstream.to(dtype))])
    for got, exact in zip(*found, strict=True):
        tolerance = 1e-2 if device == "cuda" else 1e-5  # a GPU multiplies float32 in tf32
        assert float((got - exact).norm() / exact.norm()) < tolerance
