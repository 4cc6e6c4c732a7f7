"""What a chunk of logits says of its labels, and the gradient that replaces it: for GPUs, for CPUs, and plainly."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 2_500_000
"""Of logits that a CPU's cache holds: 4 rows of a vocabulary of 150,000, 270 rows of one of 2,304."""

Statistics = tuple[Tensor, Tensor, Tensor, Tensor]
"""lse, the label's logit, the greatest logit and the entropy in nats, each [n], in float32 or better."""


def statistics(logits: Tensor, labels: Tensor) -> Statistics:
    """Of logits [n, V] and labels int64 [n]."""
    if not logits.is_cuda:
        return _in_cache(logits, labels, None)
    if logits.dtype == torch.float64:
        return plain_statistics(logits, labels)
    from danlu.model.softmax_cuda import softmax_statistics

    return softmax_statistics(logits, labels)


def residual(logits: Tensor, labels: Tensor, c: Tensor) -> Statistics:
    """The statistics; overwrites logits with c (softmax - one-hot label), the gradient of Σ c · nll, c float [n]."""
    if not logits.is_cuda:
        return _in_cache(logits, labels, c)
    if logits.dtype == torch.float64:
        return plain_residual(logits, labels, c)
    from danlu.model.softmax_cuda import softmax_residual

    return softmax_residual(logits, labels, c)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums of it are kept in."""
    return torch.promote_types(dtype, torch.float32)


def plain_statistics(logits: Tensor, labels: Tensor) -> Statistics:
    """The statistics as one writes them down; the oracle of the other ways."""
    x = logits.to(wide(logits.dtype))
    lse = x.logsumexp(-1)
    entropy = lse - ((x - lse[:, None]).exp() * x).sum(-1)
    return lse, x.gather(-1, labels[:, None]).squeeze(-1), x.amax(-1), entropy


def plain_residual(logits: Tensor, labels: Tensor, c: Tensor) -> Statistics:
    """The residual as one writes it down; the oracle of the other ways."""
    found = plain_statistics(logits, labels)
    lse = found[0]
    label = torch.arange(logits.shape[-1], device=logits.device) == labels[:, None]
    logits.copy_(((logits.to(lse.dtype) - lse[:, None]).exp() - label.to(lse.dtype)) * c[:, None])
    return found


def _in_cache(logits: Tensor, labels: Tensor, c: Tensor | None) -> Statistics:
    """Both for CPUs: a few rows at a time stay in the cache, and each logit is exponentiated once. c: overwrite."""
    dtype = wide(logits.dtype)
    size = max(1, BLOCK_BYTES // (logits.shape[1] * dtype.itemsize))
    held = torch.empty(min(size, len(logits)), logits.shape[1], dtype=dtype)
    found = [logits.new_empty(len(logits), dtype=dtype) for _ in range(4)]
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        block, label = logits[rows], labels[rows, None]
        best = block.amax(-1).to(dtype)
        chosen = block.gather(-1, label).squeeze(-1).to(dtype)
        softmax = torch.softmax(block, -1, dtype=dtype, out=held[: len(block)])
        # The greatest probability is 1 / Σ exp(logit - greatest), never below 1 / V.
        lse = best - softmax.amax(-1).log()
        entropy = lse - torch.linalg.vecdot(softmax, block.to(dtype)) if c is None else torch.zeros_like(lse)
        for whole, part in zip(found, (lse, chosen, best, entropy), strict=True):
            whole[rows] = part
        if c is not None:
            softmax.scatter_add_(-1, label, torch.full_like(label, -1, dtype=dtype))
            torch.mul(softmax, c[rows, None], out=block)
    lse, chosen, best, entropy = found
    return lse, chosen, best, entropy
