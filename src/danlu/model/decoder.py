"""One configurable causal decoder; it knows nothing of how it is trained, sharded or served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from danlu.model import pointwise_cpu
from danlu.model.alibi import Alibi, lean
from danlu.model.head import Head
from danlu.model.parts import Part, parts
from danlu.model.projection import Projection
from danlu.model.reward_head import RewardHead
from danlu.model.rope import Rope, rotate
from danlu.model.settings import ModelSettings

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [B, T, H, D], k [B, T, K, D], v [B, T, K, D]) → [B, T, H, D], K dividing H."""

Places = tuple[Tensor, Tensor]
"""What the blocks need of the positions: cosines and sines (`Rope`), or slopes and places (`Alibi`)."""

VARIANTS = 64
"""Bound on how often a block is compiled: for three shapes of a batch, with gradients of its input, of weights only and
without any, and for the few bounds of lengths that some kernels want.
"""

_GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up [..., F] of gate_up [..., 2 F] (Shazeer 2020, arXiv 2002.05202)."""
    if gate_up.is_cuda and activation == "silu" and gate_up.dtype != torch.float64:
        from danlu.model.gate_cuda import swiglu

        return swiglu(gate_up)
    if activation == "silu" and pointwise_cpu.suits(gate_up):
        return pointwise_cpu.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return _GATES[activation](gate) * up


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019), summed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if pointwise_cpu.suits(x):
            return pointwise_cpu.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    `qkv` holds, for each key-value head, its query heads, then its key, then its value; `gate_up` the gate, then up.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width, head, eps = settings.hidden_size, settings.head_size, settings.norm_eps
        self.head_size, self.queries = head, settings.heads // settings.kv_heads
        self.attention_norm = RMSNorm(width, eps)
        own, shared = settings.heads * head, settings.kv_heads * head
        self.qkv = Projection(width, {"q": own, "k": shared, "v": shared}, settings.kv_heads, bias=settings.qkv_bias)
        self.q_norm = RMSNorm(head, eps) if settings.qk_norm else None
        self.k_norm = RMSNorm(head, eps) if settings.qk_norm else None
        self.o = Projection(own, {"o": width})
        self.mlp_norm = RMSNorm(width, eps)
        self.gate_up = Projection(width, {"gate": settings.mlp_size, "up": settings.mlp_size})
        self.down = Projection(settings.mlp_size, {"down": width})
        self.activation, self.alibi = settings.activation, settings.positions == "alibi"

    def forward(
        self, x_BTD: Tensor, places: Places, attend: Attend, layer: int, pick_BN: Tensor | None = None
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(self._cheap(self.attention_norm, x_BTD), places, attend, layer, pick_BN)
        gate_up = self.gate_up(self._cheap(self.mlp_norm, x_BTD), pick_BN)
        adapters = self.down.adapters
        closed = None if adapters is None else adapters.after_gate(gate_up, self.down, self.activation)
        return x_BTD + (self.down(self._cheap(self._gated, gate_up), pick_BN) if closed is None else closed)

    def _gated(self, gate_up: Tensor) -> Tensor:
        return gated(gate_up, self.activation)

    def _cheap(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), made again in the backward pass where adapters would have it kept: of a frozen base it is a
        quarter of all that is, and with torch's dropout it is kept all the same. The compiler does so only when told.
        """
        slots = [(slot, slot.adapters) for slot in (self.qkv, self.gate_up, self.down) if slot.adapters is not None]
        adapted = any(not adapters.dropout or adapters.in_place(x, slot) for slot, adapters in slots)
        if adapted and torch.compiler.is_compiling() and torch.is_grad_enabled():
            return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
        return function(x)

    def attention(self, x_BTD: Tensor, places: Places, attend: Attend, layer: int, pick_BN: Tensor | None) -> Tensor:
        grouped_BTKGD = self.qkv(x_BTD, pick_BN).unflatten(-1, (-1, self.queries + 2, self.head_size))
        q, k, v = grouped_BTKGD.split((self.queries, 1, 1), dim=-2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.alibi:
            q, k, v = lean(q, k, v, *places)
        else:
            q, k = rotate(q, *places), rotate(k, *places)
        o_BTHD = attend(layer, q.flatten(2, 3), k.squeeze(3), v.squeeze(3))
        return self.o(o_BTHD[..., : self.head_size].flatten(2), pick_BN)


class Decoder(nn.Module):
    """Token embedding, blocks, final norm and head, in float32 unless converted.

    `recompute` keeps only each block's input for the backward pass and computes the block again there.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        if settings.from_folder is not None:
            raise ValueError("these settings only name a folder: load_decoder(folder) reads shape and weights")
        self.settings = settings
        self.recompute = False
        self.origin: Path | None = None
        """The folder that the weights came from."""
        self.random = False
        """Whether blocks draw random numbers (dropout), which recomputation must draw again."""
        self._first_as_others = False
        self.embed = nn.Embedding(settings.vocab_size, settings.hidden_size)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = RMSNorm(settings.hidden_size, settings.norm_eps)
        rewards = settings.head == "reward"
        tied = self.embed if settings.tie_embeddings or rewards else None
        self.head = Head(settings.hidden_size, settings.vocab_size, tied)
        self.reward = RewardHead(settings.hidden_size) if rewards else None
        """In place of the head, which has no weight of its own then."""
        self.places = Alibi(settings) if settings.positions == "alibi" else Rope(settings)

    @classmethod
    def empty(
        cls, settings: ModelSettings, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Decoder:
        """A decoder whose weights are not set, to be filled by `initialise` or `load_unfused`."""
        with torch.device("meta"):
            decoder = cls(settings)
        return decoder.to(dtype).to_empty(device=device)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        attend: Attend,
        pick_BN: Tensor | None = None,
        noise_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] after the final norm, which `head` takes; `attend` says who sees whom.

        `pick_BN` says which loaded adapters each row takes (`adapters.Several`); `noise_BT` is the largest absolute
        value of uniform noise on a token's embedding.
        """
        x_BTD = self.embed(tokens_BT)
        if noise_BT is not None:
            x_BTD = x_BTD + noise_BT[..., None] * torch.empty_like(x_BTD).uniform_(-1.0, 1.0)
        if self._first_as_others and torch.is_grad_enabled() and not x_BTD.requires_grad:
            x_BTD.requires_grad_()
        places = self.places(positions_BT, x_BTD.dtype)
        again = self.recompute and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks):
            if again:
                x_BTD = checkpoint(
                    block, x_BTD, places, attend, layer, pick_BN, use_reentrant=False, preserve_rng_state=self.random
                )
            else:
                x_BTD = block(x_BTD, places, attend, layer, pick_BN)
        return self.norm(x_BTD)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compiles the block for all layers, once for each shape of a batch; the first one of a shape pays for it.

        Never for shapes that are left open, which a second shape would bring about: such kernels are slower, and the
        first shape would take them, too. Where only adapters are trained, the first block makes the gradient of its
        input as all others do: 0.4% of a step at 7B, and half as much to compile.
        """
        self._first_as_others = any(value.requires_grad for value in self.blocks[0].parameters())
        torch._dynamo.config.recompile_limit = VARIANTS
        for block in self.blocks:
            block.compile(backend=backend, fullgraph=True, dynamic=False)

    def parts(self) -> Iterator[Part]:
        """Every weight under its own unfused name; the only way to see inside fused parameters."""
        return parts(self)
