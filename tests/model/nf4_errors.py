"""Prints how far products with a weight in NF4, and their gradients, lie from those of the weight that it stands for.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F

from danlu.model.nf4 import quantise
from danlu.model.nf4_cuda import nf4_product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def errors(count: int, width: int) -> list[float]:
    torch.manual_seed(0)
    made = quantise(torch.randn(count, width, device=DEVICE))
    exact = made.dequantised(torch.float64)
    x = torch.randn(2, 3, width, device=DEVICE, requires_grad=True)
    push = torch.randn(2, 3, count, device=DEVICE)
    y = nf4_product(x, *made.held, count, False)
    (d_x,) = torch.autograd.grad(y, x, push)
    pairs = [(y, F.linear(x.double(), exact)), (d_x, push.double() @ exact)]
    return [float((got.detach().double() - expected).norm() / expected.norm()) for got, expected in pairs]


if __name__ == "__main__":
    print(json.dumps({name: errors(*size) for name, size in {"whole": (48, 128), "cut": (33, 90)}.items()}))
