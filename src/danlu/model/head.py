"""The head: from hidden states to log-probabilities of labels, without ever holding all logits.

Logits come a chunk of tokens at a time. For a sum of losses the gradients are made in the forward pass, while the
chunk's logits are there; for separate log-probabilities few logits are kept, and many computed again by the backward
pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from danlu.model.gradient_sum import add_gradient
from danlu.model.linear_cpu import linear
from danlu.model.projection import Quantised
from danlu.model.softmax import residual, statistics, wide

CPU_CHUNK_BYTES = 256_000_000
CUDA_CHUNK_SHARE = 1 / 60
"""Of the device's memory, for logits: large products are fast products. 2.5 GB on an H200, 0.4 GB on a 24 GB card."""

KEPT_CHUNKS = 5
"""So many chunks of logits are kept from the forward to the backward pass, which spares one product of four."""
RECOMPUTED_CHUNKS = 2
"""At least so many chunks, on a GPU, where blocks are computed again to save memory: all logits at once would be the
peak. What chunks give is summed in float32, so a run differs by the rounding of that from one that keeps all."""


def chunk_bytes(device: torch.device) -> int:
    """Bytes of logits to hold at a time, unless a head is told otherwise."""
    if device.type != "cuda":
        return CPU_CHUNK_BYTES
    return chunk_bytes_of(torch.cuda.get_device_properties(device).total_memory)


def chunk_bytes_of(gpu: int) -> int:
    """The same of a GPU with so many bytes of memory."""
    return int(gpu * CUDA_CHUNK_SHARE)


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
    """[N] entropies of the predicted distributions in nats, without gradients; None where gradients go through nll."""


class Head(nn.Module):
    """The product with the vocabulary and its losses; tied to an embedding, or with a weight of its own."""

    def __init__(self, hidden_size: int, vocab_size: int, tied: nn.Embedding | None = None) -> None:
        super().__init__()
        # In a tuple the embedding is not registered twice, and stays tied when its weight is replaced.
        self._tied = (tied,)
        self.linear = None if tied is not None else nn.Linear(hidden_size, vocab_size, bias=False)
        self.quantised: Quantised | None
        self.register_module("quantised", None)
        self.gradient_sum: Tensor | None
        """Float32 [V, D], to which the gradient of a weight in fewer bits is added; None: it is the weight's."""
        self.register_buffer("gradient_sum", None, persistent=False)
        self.owed = 0
        """Gradients that were added to the sum and whose loss was not gone back through yet."""
        self.chunk_bytes: int | None = None
        """Bytes of logits to hold at a time; None: `chunk_bytes` of the device."""
        self.least_chunks = 1
        """Chunks of a sum of losses, however few its tokens."""

    @property
    def weight(self) -> Tensor:
        """[V, D]."""
        holder = self._tied[0] or self.linear
        assert holder is not None  # one of the two is there
        return holder.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V], in the dtype of hidden [..., D]."""
        return linear(hidden, self.weight) if self.quantised is None else self.quantised(hidden, None)

    def quantise(self, quantised: Quantised) -> None:
        """Takes a quantised weight in the place of its own."""
        self._tied, self.linear, self.quantised = (None,), None, quantised

    def forward(
        self,
        hidden_ND: Tensor,
        labels_N: Tensor,
        weights_N: Tensor | None = None,
        needs: Literal["nll", "logp"] = "nll",
    ) -> HeadOutput:
        """Losses of labels (int64) under hidden states, weighted for `nll` (float32, default 1).

        `nll` is for objectives that are a weighted sum of log-probabilities, `logp` for all others. A factor on the
        loss (a loss scale over the tokens of the step) is best put into the weights: gradients are then rounded once.
        Where they are added to `gradient_sum` it must be there: that of `nll` is added in the forward pass.
        """
        weight = self.weight if self.quantised is None else self.quantised.dequantised(hidden_ND.dtype)
        chunk = self._chunk_tokens(hidden_ND, len(weight))
        learns = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight.requires_grad)
        if needs == "nll" and learns:
            weights = torch.ones_like(labels_N, dtype=wide(hidden_ND.dtype)) if weights_N is None else weights_N
            chunk = min(chunk, max(1, -(-len(labels_N) // self.least_chunks)))
            nll, logp, lse, correct = _WeightedNLL.apply(hidden_ND, weight, labels_N, weights, chunk, self.gradient_sum)
            if self.gradient_sum is not None:
                self.owed += 1
                nll.register_hook(self._settle)
            return HeadOutput(nll, logp, lse, correct, None)
        keep = learns and 0 < len(labels_N) <= KEPT_CHUNKS * chunk
        most = len(labels_N) if keep else chunk
        logp, lse, correct, entropy = _LogP.apply(hidden_ND, weight, labels_N, most, keep, self.gradient_sum)
        nll = None
        if needs == "nll":
            nll = -(logp.sum() if weights_N is None else torch.dot(logp, weights_N.to(logp.dtype)))
        return HeadOutput(nll, logp, lse, correct, entropy)

    def _settle(self, _: Tensor) -> None:
        self.owed -= 1

    def _chunk_tokens(self, hidden_ND: Tensor, vocabulary: int) -> int:
        limit = self.chunk_bytes or chunk_bytes(hidden_ND.device)
        return max(16, limit // (vocabulary * hidden_ND.element_size()))


class _WeightedNLL(torch.autograd.Function):
    """Σ w (lse - logit of the label), its gradients made beside it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, chunk: int, total: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gradients, found = _Gradients(hidden, weight, ctx.needs_input_grad[1], total), _Found(hidden)
        for rows, logits in _chunks(hidden, weight, chunk):
            found.take(rows, residual(logits, labels[rows], weights[rows]))
            gradients.add(rows, logits)
        ctx.gradients = gradients
        logp, lse, correct = found.logp, found.lse, found.correct
        ctx.mark_non_differentiable(logp, lse, correct)
        return -torch.dot(logp, weights.to(logp.dtype)), logp, lse, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("these gradients were made once and given away: run the forward pass again")
        return *gradients.scaled(d_nll), None, None, None, None


class _LogP(torch.autograd.Function):
    """Logit of the label - lse, for each token; the backward pass computes the logits again unless they are kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, keep: bool, total: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found, ctx.kept = _Found(hidden), None
        for rows, logits in _chunks(hidden, weight, chunk):
            found.take(rows, statistics(logits, labels[rows]))
            ctx.kept = (rows, logits) if keep else None
        ctx.save_for_backward(hidden, weight, labels)
        ctx.chunk, ctx.total = chunk, total  # not saved: a sum that more has been added to is the same sum
        lse, correct, entropy = found.lse, found.correct, found.entropy
        ctx.mark_non_differentiable(lse, correct, entropy)
        return found.logp, lse, correct, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logp: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels = ctx.saved_tensors
        gradients, kept = _Gradients(hidden, weight, ctx.needs_input_grad[1], ctx.total), ctx.kept
        ctx.kept = None  # what is kept becomes the gradient; a second pass computes it again
        for rows, logits in _chunks(hidden, weight, ctx.chunk) if kept is None else [kept]:
            residual(logits, labels[rows], -d_logp[rows])
            gradients.add(rows, logits)
        return *gradients.scaled(None), None, None, None, None


class _Found:
    """The statistics of all tokens, gathered chunk by chunk."""

    def __init__(self, hidden: Tensor) -> None:
        self._held = hidden.new_empty(4, len(hidden), dtype=wide(hidden.dtype))

    def take(self, rows: slice, statistics: tuple[Tensor, ...]) -> None:
        for held, values in zip(self._held, statistics, strict=True):
            held[rows] = values

    @property
    def lse(self) -> Tensor:
        return self._held[0]

    @property
    def logp(self) -> Tensor:
        return self._held[1] - self._held[0]

    @property
    def correct(self) -> Tensor:
        return self._held[1] >= self._held[2]

    @property
    def entropy(self) -> Tensor:
        return self._held[3]


class _Gradients:
    """Gradients with respect to hidden states and weight, gathered chunk by chunk out of those of the logits; that of a
    frozen weight is not made, and with `total` the weight's is added to it and not given.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, of_weight: bool, total: Tensor | None) -> None:
        self._inputs, self._of_weight = (hidden, weight), of_weight
        self._total = total if of_weight else None
        self.hidden = torch.empty_like(hidden)
        self.weight: Tensor | None = None

    def add(self, rows: slice, d_logits: Tensor) -> None:
        hidden, weight = self._inputs
        torch.mm(d_logits, weight, out=self.hidden[rows])
        if self._total is not None:
            add_gradient(self._total, d_logits, hidden[rows])
        elif self._of_weight and rows.stop - rows.start == len(hidden):
            self.weight = torch.mm(d_logits.t(), hidden)
        elif self._of_weight:
            # Sums over chunks are float32: rounding each of them to bf16 would show.
            if self.weight is None:
                self.weight = torch.zeros_like(weight, dtype=wide(weight.dtype))
            add_gradient(self.weight, d_logits, hidden[rows])

    def scaled(self, factor: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both, times `factor`, in their inputs' dtype. What was added to a total is there as it is: then it is 1."""
        if self._total is not None and factor is not None:
            torch._assert_async(factor == 1, "a factor on the head's loss goes into its weights")
            return self.hidden, None
        if factor is not None:
            self.hidden *= factor
        if not self._of_weight or self._total is not None:
            return self.hidden, None
        summed = torch.zeros_like(self._inputs[1]) if self.weight is None else self.weight
        if factor is not None:
            summed *= factor
        return self.hidden, summed.to(self.hidden.dtype)


def _chunks(hidden: Tensor, weight: Tensor, most: int) -> Iterator[tuple[slice, Tensor]]:
    """Equal chunks of at most `most` rows with their logits [n, V], which the next chunk overwrites."""
    total = len(hidden)
    size = -(-total // max(1, -(-total // most)))
    held = hidden.new_empty(size, len(weight))
    for start in range(0, total, max(1, size)):
        rows = slice(start, min(start + size, total))
        yield rows, torch.mm(hidden[rows], weight.t(), out=held[: rows.stop - start])
