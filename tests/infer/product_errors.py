"""Prints, for each case, how far the products of a decoding step over loaded adapters lie from float64.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from danlu.infer.products_cuda import SKINNY, normed_product, partial_products
from danlu.model.adapters import LoRA, Pair, Several
from danlu.model.decoder import RMSNorm, gated
from danlu.model.projection import Projection

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Ranks = dict[tuple[str, ...], int]
"""Of an adapter's pairs, by the weights that they cover."""
QKV = {"q": 48, "k": 8, "v": 8}
GATE = {"gate": 70, "up": 70}
TWO: list[Ranks] = [{("q",): 3, ("k", "v"): 5}, {("v",): 7}]
GATES: list[Ranks] = [{("gate",): 6, ("up",): 5}, {}, {("up",): 1}]
MANY: list[Ranks] = [{("gate", "up"): 200}, {("gate",): 33, ("up",): 90}]
ONE: list[Ranks] = [{("o",): 3}, {}, {("o",): 21}]

NORMED: dict[str, tuple[int, int, dict[str, int], list[Ranks], list[int | None], str | None]] = {
    "one row, no adapters": (1100, 2, QKV, [], [None], None),
    "one row, a gate, no adapters": (1100, 2, GATE, [], [None], "silu"),
    "one row, a shallow gate, no adapters": (300, 0, GATE, [], [None], "silu"),
    "one row, the first": (96, 0, QKV, TWO, [0], None),
    "one row, the second, parts": (96, 3, QKV, TWO, [1], None),
    "one row, none": (96, 2, QKV, TWO, [None], None),
    "one row, an adapter that the projection lacks": (40, 1, GATE, GATES, [1], "silu"),
    "one row, a gate": (1100, 2, GATE, GATES, [0], "silu"),
    "one row, a gate, more ranks than a tile": (64, 2, GATE, MANY, [1], "silu"),
    "rows, each its own": (96, 2, QKV, TWO, [1, None, 0, 1, 1], None),
    "rows, none takes any": (96, 2, QKV, TWO, [None, None], None),
    "rows, a gate": (300, 0, GATE, GATES, [2, 1, 0, None, 2, 0], "silu"),
    "rows, a gate, more ranks than a tile": (64, 1, GATE, MANY, [0, 1, None], "silu"),
    "as many rows as fit": (64, 5, QKV, TWO, [0, 1, None, 1] * (SKINNY // 4), None),
    "more rows than fit": (64, 2, GATE, GATES, [0, 1, 2, None] * 5, "silu"),
    "many rows": (64, 1, QKV, TWO, [1, None, 0] * 30, None),
    "another gate": (64, 2, GATE, GATES, [0, None], "gelu"),
}
"""Width, parts to add, weights, adapters, which of them each row takes, and activation."""
PARTIAL: dict[str, tuple[int, int, list[Ranks], list[int | None]]] = {
    "one row": (90, 40, ONE, [0]),
    "one row, an adapter that the projection lacks": (90, 40, ONE, [1]),
    "one row, splits": (2100, 40, ONE, [2]),
    "one row, deeper than a tile": (9000, 9, ONE, [2]),
    "one row, splits of deep tiles": (3000, 1100, ONE, [2]),
    "rows": (90, 40, ONE, [2, 0, None, 1]),
    "rows, splits": (300, 70, ONE, [1, 2, 2, None, 0]),
    "rows, deeper than a tile": (4200, 9, ONE, [2, 0, None]),
    "more rows than fit": (300, 70, ONE, [0, 1, 2, None] * 5),
    "many rows": (64, 40, ONE, [2, None, 0] * 30),
}
"""Depth, columns, adapters and which of them each row takes."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


def adapted_slot(width: int, inside: dict[str, int], ranks: list[Ranks]) -> tuple[Projection, list[LoRA | None]]:
    """A projection with drawn weights and adapters, and with a bias where it is of queries, keys and values."""
    slot = Projection(width, inside, bias="q" in inside).to(DEVICE)
    slot.weight.copy_(drawn(*slot.weight.shape) / width**0.5)
    adapters: list[LoRA | None] = []
    for own in ranks:
        pairs = [
            Pair(covers, drawn(rank, width) / width**0.5, drawn(sum(inside[name] for name in covers), rank), 0.7)
            for covers, rank in own.items()
        ]
        adapters.append(LoRA(pairs).to(DEVICE) if pairs else None)
    slot.adapters = Several(slot, adapters, slot.weight.dtype) if ranks else None
    return slot, adapters


def expected(x_BD: Tensor, slot: Projection, adapters: list[LoRA | None], picks: list[int | None]) -> Tensor:
    """The projection of each row, a pair at a time, in float64."""
    y = x_BD @ slot.weight.double().T
    y = y if slot.bias is None else y + slot.bias.double()
    for row, pick in enumerate(picks):
        adapter = None if pick is None else adapters[pick]
        for pair in adapter.of() if adapter else []:
            raised = pair.scale * (pair.b.double() @ (pair.a.double() @ x_BD[row]))
            for name, piece in zip(pair.covers, raised.split([slot.inside[name] for name in pair.covers]), strict=True):
                slot.view(name)(y[row]).add_(piece)
    return y


def chosen(picks: list[int | None], count: int) -> Tensor:
    return torch.tensor([[float(pick == number) for number in range(count)] for pick in picks], device=DEVICE)


def distance(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


@torch.no_grad()
def normed_errors(
    width: int, parts: int, inside: dict[str, int], ranks: list[Ranks], picks: list[int | None], activation: str | None
) -> list[float]:
    """Of the sum, and of the projection of its norm."""
    torch.manual_seed(0)
    slot, adapters = adapted_slot(width, inside, ranks)
    norm = RMSNorm(width, 1e-6).to(DEVICE)
    norm.weight.copy_(1 + 0.1 * drawn(width))
    x_BD, parts_SBD = drawn(len(picks), width), drawn(parts, len(picks), width)
    total = x_BD.double() + parts_SBD.double().sum(0)
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-6) * norm.weight.double()
    exact = expected(normed, slot, adapters, picks)
    exact = exact if activation is None else gated(exact, activation)
    pick_BN = chosen(picks, len(ranks))
    ours = normed_product(x_BD, parts_SBD if parts else None, norm, slot, activation, pick_BN)
    return [distance(made, right) for made, right in zip(ours, (total, exact), strict=True)]


@torch.no_grad()
def partial_errors(depth: int, columns: int, ranks: list[Ranks], picks: list[int | None]) -> list[float]:
    torch.manual_seed(0)
    slot, adapters = adapted_slot(depth, {"o": columns}, ranks)
    x_BD = drawn(len(picks), depth)
    parts_SBC = partial_products(x_BD, slot, chosen(picks, len(ranks)))
    return [distance(parts_SBC.sum(0), expected(x_BD.double(), slot, adapters, picks))]


if __name__ == "__main__":
    found = {f"normed: {name}": normed_errors(*case) for name, case in NORMED.items()}
    found |= {f"partial: {name}": partial_errors(*case) for name, case in PARTIAL.items()}
    print(json.dumps(found))
