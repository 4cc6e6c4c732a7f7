"""Adapters of low rank on projections: trained one at a time, or several loaded and chosen by each row of a batch.

LoRA (Hu et al. 2021, arXiv 2106.09685), rsLoRA (Kalajdzievski 2023, arXiv 2312.03732), DoRA (Liu et al. 2024,
arXiv 2402.09353), PiSSA (Meng et al. 2024, arXiv 2404.02948).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.attention import HALF
from danlu.model.projection import Projection


class Adapters(nn.Module):
    """What is added to a projection; the base of all kinds of it."""

    dropout = 0.0

    def in_place(self, x: Tensor, slot: Projection) -> bool:
        """Whether `adapted_cuda` computes it of such an x, which then keeps nothing that it can make again."""
        return False

    def forward(self, x: Tensor, slot: Projection, pick_BN: Tensor | None) -> Tensor:
        """[..., out]: the projection of x with the adapters on."""
        raise NotImplementedError

    def after_gate(self, gate_up: Tensor, slot: Projection, activation: str) -> Tensor | None:
        """[..., out]: the same of activation(gate) * up, of gate_up [..., 2 in]; None where it is not made in one."""
        return None


class Pair(nn.Module):
    """scale · B A over one or several weights, such as q alone, or q, k and v that share A.

    `covers` names the weights whose rows B has, in that order. `start`, where given, is subtracted, so that training
    may begin at another pair than zero and change nothing (PiSSA without touching the weight).
    """

    def __init__(self, covers: Sequence[str], a_RI: Tensor, b_OR: Tensor, scale: float) -> None:
        super().__init__()
        self.covers, self.scale = tuple(covers), scale
        self.a, self.b = nn.Parameter(a_RI), nn.Parameter(b_OR)
        self.magnitude: nn.Parameter | None
        self.start_a: nn.Parameter | None
        self.start_b: nn.Parameter | None
        for name in ("magnitude", "start_a", "start_b"):
            self.register_parameter(name, None)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def begin_at(self, a_RI: Tensor, b_OR: Tensor) -> None:
        """Takes these as the values and as what is subtracted."""
        self.start_a, self.start_b = (nn.Parameter(value, requires_grad=False) for value in (a_RI, b_OR))
        self.a.data, self.b.data = a_RI.clone(), b_OR.clone()

    def down(self) -> Tensor:
        """A [R, in], with what is subtracted below it."""
        return self.a if self.start_a is None else torch.cat((self.a, self.start_a))

    def up(self) -> Tensor:
        """scale · B [rows, R]."""
        both = self.b if self.start_b is None else torch.cat((self.b, -self.start_b), dim=1)
        return both * self.scale


class LoRA(Adapters):
    """One adapter, which can be trained: equal to separate ones on the weights inside the projection.

    All of them are computed as one product with their A's below each other and one with their B's in blocks, so two
    small products a projection, however many weights it holds.
    """

    def __init__(self, pairs: Sequence[Pair], dropout: float = 0.0) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict({"_".join(pair.covers): pair for pair in pairs})
        self.dropout, self.on = dropout, True

    def forward(self, x: Tensor, slot: Projection, pick_BN: Tensor | None) -> Tensor:
        if not self.on:
            return slot.product(x, slot.bias)
        a_RI, b_OR = self.low_rank(slot)
        if self.in_place(x, slot):
            from danlu.model.adapted_cuda import adapted

            y = adapted(x, a_RI, b_OR, slot.held, self._dropped, slot.float8_scale)
            return y if slot.bias is None else y + slot.bias
        low = F.linear(F.dropout(x, self._dropped) if self._dropped else x, a_RI)
        if not self.has_magnitudes:
            return slot.product(x, slot.bias) + F.linear(low, b_OR)
        y = (slot.product(x, None) + F.linear(low, b_OR)) * self.gains(slot, a_RI, b_OR).to(x.dtype)
        return y if slot.bias is None else y + slot.bias

    def after_gate(self, gate_up: Tensor, slot: Projection, activation: str) -> Tensor | None:
        if not self.on or activation != "silu" or slot.bias is not None or not self.in_place(gate_up, slot):
            return None
        from danlu.model.adapted_cuda import adapted_after_gate

        return adapted_after_gate(gate_up, *self.low_rank(slot), slot.held, self._dropped, slot.float8_scale)

    def in_place(self, x: Tensor, slot: Projection) -> bool:
        return x.is_cuda and x.dtype in HALF and self.plain(slot)

    def plain(self, slot: Projection) -> bool:
        """Whether it is scale · B A alone, beside a weight that is not trained."""
        return len(slot.held) > 0 and not self.has_magnitudes

    @property
    def _dropped(self) -> float:
        return self.dropout if self.training else 0.0

    def of(self) -> list[Pair]:
        return [pair for pair in self.pairs.values() if isinstance(pair, Pair)]

    @property
    def has_magnitudes(self) -> bool:
        return any(pair.magnitude is not None for pair in self.of())

    def low_rank(self, slot: Projection) -> tuple[Tensor, Tensor]:
        """A [R, in] and scale · B [out, R] of the whole projection, R the sum of all ranks."""
        pairs = self.of()
        if len(pairs) == 1:
            a_RI, stacked = pairs[0].down(), pairs[0].up()
        else:
            a_RI = torch.cat([pair.down() for pair in pairs])
            stacked = torch.block_diag(*[pair.up() for pair in pairs])
        return a_RI, slot.fuse(self._by_weight(slot, stacked))

    def gains(self, slot: Projection, a_RI: Tensor, b_OR: Tensor) -> Tensor:
        """By what DoRA multiplies each row [out], float32: magnitude over the row's length, which is held constant."""
        lengths_O = self._lengths(slot, a_RI.detach(), b_OR.detach())
        found = {name: torch.ones_like(slot.view(name)(lengths_O).reshape(-1)) for name in slot.inside}
        for pair in self.of():
            assert pair.magnitude is not None
            rows = pair.magnitude.float().split([slot.inside[name] for name in pair.covers])
            for name, magnitude in zip(pair.covers, rows, strict=True):
                found[name] = magnitude / slot.view(name)(lengths_O).reshape(-1)
        return slot.fuse(found)

    @torch.no_grad()
    def _lengths(self, slot: Projection, a_RI: Tensor, b_OR: Tensor) -> Tensor:
        """Lengths of the rows of W + B A, out of |W|² + 2 W·(B A) + |B A|², so that B A [out, in] is never made."""
        weight, a, b = slot.whole_weight(a_RI.dtype), a_RI.float(), b_OR.float()
        squares_O = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
        crossed_O = (F.linear(weight, a_RI).float() * b).sum(1)
        return (squares_O + 2 * crossed_O + ((b @ (a @ a.T)) * b).sum(1)).clamp(min=0).sqrt()

    def _by_weight(self, slot: Projection, stacked: Tensor) -> dict[str, Tensor]:
        """The rows of B for each weight inside; zeros for those that have no adapter."""
        rows: dict[str, Tensor] = {}
        start = 0
        for pair in self.of():
            for name in pair.covers:
                rows[name] = stacked[start : start + slot.inside[name]]
                start += slot.inside[name]
        for name, count in slot.inside.items():
            if name not in rows:
                rows[name] = stacked.new_zeros(count, stacked.shape[1])
        return rows


class Several(Adapters):
    """Any number of adapters, each row of the batch taking one or none; not for training.

    `pick_BN` [B, N] is 1 where row b takes adapter n, else 0; None: no row takes any. All are computed for all rows
    and masked: for the few that are loaded at once that is cheaper than gathering a row's own.
    """

    def __init__(self, slot: Projection, adapters: Sequence[LoRA | None], dtype: torch.dtype) -> None:
        super().__init__()
        width = next(pair.a.shape[1] for adapter in adapters if adapter for pair in adapter.of())
        rows = sum(slot.inside.values())
        downs, ups, gains = [], [], []
        for adapter in adapters:
            a_RI, b_OR = adapter.low_rank(slot) if adapter else (torch.zeros(0, width), torch.zeros(rows, 0))
            magnitudes = adapter is not None and adapter.has_magnitudes
            gains.append(adapter.gains(slot, a_RI, b_OR) if adapter and magnitudes else torch.ones(rows))
            downs.append(a_RI)
            ups.append(b_OR)
        device = slot.device
        owner = torch.arange(len(downs)).repeat_interleave(torch.tensor([len(down) for down in downs]))
        self.owner: Tensor
        self.a: Tensor
        self.b: Tensor
        self.more: Tensor | None
        self.register_buffer("owner", owner.to(device))
        self.register_buffer("a", torch.cat([down.to(device, dtype) for down in downs]))
        self.register_buffer("b", torch.cat([up.to(device, dtype) for up in ups], dim=1))
        scaled = any(adapter is not None and adapter.has_magnitudes for adapter in adapters)
        more = torch.stack([gain.to(device) for gain in gains]) - 1 if scaled else None
        self.register_buffer("more", None if more is None else more.to(dtype))

    def forward(self, x: Tensor, slot: Projection, pick_BN: Tensor | None) -> Tensor:
        if pick_BN is None:
            return slot.product(x, slot.bias)
        low_BTR = F.linear(x, self.a) * pick_BN[:, None, self.owner]
        if self.more is None:
            return slot.product(x, slot.bias) + F.linear(low_BTR, self.b)
        y = (slot.product(x, None) + F.linear(low_BTR, self.b)) * (1 + pick_BN @ self.more)[:, None]
        return y if slot.bias is None else y + slot.bias
