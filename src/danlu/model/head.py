"""The head: from hidden states to log-probabilities of labels, without ever holding all logits.

Logits come a chunk of tokens at a time. For a sum of losses the gradients are made in the forward pass, while the
chunk's logits are there; for separate log-probabilities the backward pass computes the logits again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cuda": 2_000_000_000, "cpu": 256_000_000}
"""Logits held at a time: large products are fast products, and both fit beside what training holds anyway."""


@dataclass(frozen=True)
class HeadOutput:
    """What the head says of N labels, in float32 (float64 for float64 weights); gradients go through nll or logp."""

    nll: Tensor | None
    """Scalar, the weighted sum of negative log-probabilities in nats; None where `logp` was asked for."""
    logp: Tensor
    """[N] log-probabilities of the labels; with gradients where they were asked for."""
    lse: Tensor
    """[N] logarithms of the softmax's denominators."""
    correct: Tensor
    """bool [N], whether no other logit is greater than the label's."""
    entropy: Tensor | None
    """[N] entropies of the predicted distributions in nats, where asked for."""


class Head(nn.Module):
    """The product with the vocabulary and its losses; tied to an embedding, or with a weight of its own."""

    def __init__(self, hidden_size: int, vocab_size: int, tied: nn.Embedding | None = None) -> None:
        super().__init__()
        # In a tuple the embedding is not registered twice, and stays tied when its weight is replaced.
        self._tied = (tied,)
        self.linear = None if tied is not None else nn.Linear(hidden_size, vocab_size, bias=False)
        self.chunk_bytes: int | None = None
        """Bytes of logits to hold at a time; None: CHUNK_BYTES of the device."""

    @property
    def weight(self) -> Tensor:
        """[V, D]."""
        holder = self._tied[0] or self.linear
        assert holder is not None  # one of the two is there
        return holder.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V], in the dtype of hidden [..., D]."""
        return F.linear(hidden, self.weight)

    def forward(
        self,
        hidden_ND: Tensor,
        labels_N: Tensor,
        weights_N: Tensor | None = None,
        needs: Literal["nll", "logp"] = "nll",
        entropy: bool = False,
    ) -> HeadOutput:
        """Losses of labels (int64) under hidden states, weighted for `nll` (float32, default 1).

        `nll` is for objectives that are a weighted sum of log-probabilities, `logp` for all others. A factor on the
        loss (a loss scale over the tokens of the step) is best put into the weights: gradients are then rounded once.
        `entropy` may be asked for where the forward pass makes no gradients: with `logp`, or without gradients at all.
        """
        weight, chunk = self.weight, self._chunk_tokens(hidden_ND)
        learns = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight.requires_grad)
        if needs == "nll" and learns:
            if entropy:
                raise ValueError("entropy comes with needs='logp' or without gradients")
            weights = torch.ones_like(labels_N, dtype=_wide(hidden_ND)) if weights_N is None else weights_N
            nll, logp, lse, correct = _WeightedNLL.apply(hidden_ND, weight, labels_N, weights, chunk)
            return HeadOutput(nll, logp, lse, correct, None)
        logp, lse, correct, spread = _LogP.apply(hidden_ND, weight, labels_N, chunk, entropy)
        nll = None
        if needs == "nll":
            nll = -(logp.sum() if weights_N is None else torch.dot(logp, weights_N.to(logp.dtype)))
        return HeadOutput(nll, logp, lse, correct, spread if entropy else None)

    def _chunk_tokens(self, hidden_ND: Tensor) -> int:
        limit = self.chunk_bytes or CHUNK_BYTES["cuda" if hidden_ND.is_cuda else "cpu"]
        return max(16, limit // (self.weight.shape[0] * hidden_ND.element_size()))


class _WeightedNLL(torch.autograd.Function):
    """Σ w (lse - logit of the label), its gradients made beside it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gradients = _Gradients(hidden, weight)
        outcomes = []
        for rows, logits in _chunks(hidden, weight, chunk):
            outcomes.append(_residual(logits, labels[rows], weights[rows]))
            gradients.add(rows, logits)
        lse, chosen, best = _joined(outcomes, hidden, 3)
        ctx.gradients = gradients
        logp, correct = chosen - lse, chosen >= best
        ctx.mark_non_differentiable(logp, lse, correct)
        return -torch.dot(logp, weights.to(logp.dtype)), logp, lse, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("these gradients were made once and given away: run the forward pass again")
        return *gradients.scaled(d_nll), None, None, None


class _LogP(torch.autograd.Function):
    """Logit of the label - lse, for each token; the backward pass computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outcomes = [_statistics(logits, labels[rows], entropy) for rows, logits in _chunks(hidden, weight, chunk)]
        lse, chosen, best, spread = _joined(outcomes, hidden, 4)
        ctx.save_for_backward(hidden, weight, labels)
        ctx.chunk = chunk
        logp, correct = chosen - lse, chosen >= best
        ctx.mark_non_differentiable(lse, correct, spread)
        return logp, lse, correct, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logp: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, labels = ctx.saved_tensors
        gradients = _Gradients(hidden, weight)
        for rows, logits in _chunks(hidden, weight, ctx.chunk):
            _residual(logits, labels[rows], -d_logp[rows])
            gradients.add(rows, logits)
        return *gradients.scaled(None), None, None, None


class _Gradients:
    """Gradients with respect to hidden states and weight, gathered chunk by chunk out of those of the logits."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self._inputs = hidden, weight
        self.hidden = torch.empty_like(hidden)
        # Sums over chunks are float32: rounding each of them to bf16 would show.
        self.weight = torch.zeros_like(weight, dtype=_wide(weight))

    def add(self, rows: slice, d_logits: Tensor) -> None:
        hidden, weight = self._inputs
        torch.mm(d_logits, weight, out=self.hidden[rows])
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(d_logits.t(), hidden[rows])
        else:
            self.weight += torch.mm(d_logits.t(), hidden[rows])

    def scaled(self, factor: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both, times `factor`, in their inputs' dtype."""
        if factor is not None:
            self.hidden *= factor
            self.weight *= factor
        return self.hidden, self.weight.to(self.hidden.dtype)


def _chunks(hidden: Tensor, weight: Tensor, most: int) -> Iterator[tuple[slice, Tensor]]:
    """Equal chunks of at most `most` rows with their logits [n, V], which the next chunk overwrites."""
    total = len(hidden)
    size = -(-total // max(1, -(-total // most)))
    held = hidden.new_empty(size, len(weight))
    for start in range(0, total, max(1, size)):
        rows = slice(start, min(start + size, total))
        yield rows, torch.mm(hidden[rows], weight.t(), out=held[: rows.stop - start])


def _joined(outcomes: Sequence[tuple[Tensor, ...]], like: Tensor, width: int) -> tuple[Tensor, ...]:
    if not outcomes:
        return tuple(like.new_empty(0, dtype=_wide(like)) for _ in range(width))
    return tuple(torch.cat(parts) for parts in zip(*outcomes, strict=True))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _statistics(logits: Tensor, labels: Tensor, entropy: bool) -> tuple[Tensor, ...]:
    """lse, the label's logit, the greatest logit and the entropy (0 where not asked for), each [n]."""
    if logits.is_cuda:
        return _compiled(plain_statistics)(_any_rows(logits), labels, entropy)
    return _in_cache(logits, labels, None, entropy)


def _residual(logits: Tensor, labels: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Overwrites logits with c (softmax - one-hot label), the gradient of Σ c · nll.

    Gives lse, the label's logit and the greatest, each [n].
    """
    if logits.is_cuda:
        return _compiled(plain_residual)(_any_rows(logits), labels, c)
    return _in_cache(logits, labels, c)[:3]


def plain_statistics(logits: Tensor, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The statistics as one writes them down; compiled on CUDA."""
    wide = logits.to(_wide(logits))
    lse = wide.logsumexp(-1)
    chosen = wide.gather(-1, labels[:, None]).squeeze(-1)
    spread = lse - ((wide - lse[:, None]).exp() * wide).sum(-1) if entropy else torch.zeros_like(lse)
    return lse, chosen, wide.amax(-1), spread


def plain_residual(logits: Tensor, labels: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The residual as one writes it down; compiled on CUDA."""
    lse, chosen, best, _ = plain_statistics(logits, labels, False)
    label = torch.arange(logits.shape[-1], device=logits.device) == labels[:, None]
    logits.copy_(((logits.to(lse.dtype) - lse[:, None]).exp() - label.to(lse.dtype)) * c[:, None])
    return lse, chosen, best


_BLOCK = 4
"""Rows that a CPU core's cache holds in float32 for a vocabulary of some 150,000."""


def _in_cache(logits: Tensor, labels: Tensor, c: Tensor | None, entropy: bool = False) -> tuple[Tensor, ...]:
    """Both for CPUs: a few rows at a time stay in the cache, and each logit is exponentiated once. c: overwrite."""
    held = torch.empty(min(_BLOCK, len(logits)), logits.shape[1], dtype=_wide(logits))
    outcomes = []
    for start in range(0, len(logits), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block, label = logits[rows], labels[rows, None]
        best = block.amax(-1).to(held.dtype)
        chosen = block.gather(-1, label).squeeze(-1).to(held.dtype)
        softmax = torch.softmax(block, -1, dtype=held.dtype, out=held[: len(block)])
        # The greatest probability is 1 / Σ exp(logit - greatest), never below 1 / V.
        lse = best - softmax.amax(-1).log()
        outcomes.append((lse, chosen, best, lse - (softmax * block).sum(-1) if entropy else torch.zeros_like(lse)))
        if c is not None:
            softmax.scatter_add_(-1, label, torch.full_like(label, -1, dtype=held.dtype))
            torch.mul(softmax, c[rows, None], out=block)
    return _joined(outcomes, logits, 4)


@functools.cache
def _compiled(kernel: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    return torch.compile(kernel, fullgraph=True)


def _any_rows(logits: Tensor) -> Tensor:
    """Tells the compiler that the number of rows varies, so that it compiles once."""
    torch._dynamo.maybe_mark_dynamic(logits, 0)
    return logits
