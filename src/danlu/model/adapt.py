"""Putting adapters on a decoder, naming their parameters, switching them off, and merging them into the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from danlu.ledger.errors import UserError
from danlu.model.adapters import LoRA, Pair, Several
from danlu.model.families.family import Family
from danlu.model.families.table import FAMILIES
from danlu.model.parts import Part
from danlu.model.projection import Projection

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder

ALL_LINEAR = "all-linear"
EXACT_SVD = 1024  # up to this many rows or columns; beyond, the randomised method is as good and minutes faster
SVD_ROUNDS = 8


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter is made as. `targets` are names of modules as they are on disk, or `all-linear`."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rank_stabilised: bool = False
    """rsLoRA: scale alpha / √rank in place of alpha / rank."""
    magnitudes: bool = False
    """DoRA: a trained length for each row."""
    start: Literal["zero", "pissa"] = "zero"
    over: Literal["full", "nf4"] = "full"
    """What the base's projections were held in when it was trained."""

    def scale(self, rank: int | None = None, alpha: float | None = None) -> float:
        """By what B A is multiplied."""
        rank = rank or self.rank
        return (alpha or self.alpha) / (rank**0.5 if self.rank_stabilised else rank)


def slots(decoder: Decoder) -> Iterator[tuple[int, str, Projection]]:
    """(layer, name in the block, projection) of all projections."""
    for layer, block in enumerate(decoder.blocks):
        for name, slot in block.named_children():
            if isinstance(slot, Projection):
                yield layer, name, slot


def modules_on_disk(decoder: Decoder, layer: int) -> dict[str, tuple[str, ...]]:
    """Paths that a layer's modules may have on disk (`model.layers.0.self_attn.q_proj`, …) and the weights that each
    covers: those of the decoder's own form first, then those of the forms that are read as it.
    """
    inside = {name for _, _, slot in slots(decoder) for name in slot.inside}
    own = decoder.settings.family
    paths: dict[str, tuple[str, ...]] = {}
    for family in sorted(FAMILIES.values(), key=lambda family: family.name != own):
        if own not in (family.name, family.read_as):
            continue
        for weight in sorted(inside):
            paths[family.on_disk(f"layers.{layer}.{weight}.weight").removesuffix(".weight")] = (weight,)
        if family.packed:
            paths[family.packed.name.format(layer).removesuffix(".weight")] = ("q", "k", "v")
    return paths


def known_targets(decoder: Decoder) -> dict[str, tuple[str, ...]]:
    """Names that a target may have on disk (`q_proj`, `W_pack`, …) and the weights that each covers."""
    return {path.rpartition(".")[2]: covers for path, covers in modules_on_disk(decoder, 0).items()}


def packed_in(family: Family) -> tuple[str, ...] | None:
    """The weights that a family's own form keeps end to end in one matrix, which PEFT gives one adapter there."""
    return ("q", "k", "v") if family.packed and not family.packed.grouped else None


def attach(decoder: Decoder, shape: AdapterShape, seed: int) -> None:
    """Freezes the decoder and puts a new adapter on its projections: A uniform within ±1/√in, B zero, as in PEFT.

    Values are float32 (or the decoder's wider format) and depend on the seed and their name alone.
    Raises UserError for a target that the decoder does not have.
    """
    names = known_targets(decoder)
    unknown = [name for name in shape.targets if name not in (*names, ALL_LINEAR)]
    if unknown:
        raise UserError(
            f"there is no module {', '.join(unknown)} in this {decoder.settings.family} model",
            where="tune.targets",
            do=f"choose of {', '.join(names)}, or {ALL_LINEAR}",
        )
    wanted: list[tuple[str, ...]]
    if ALL_LINEAR in shape.targets:
        packed = packed_in(FAMILIES[decoder.settings.family])
        every = [weight for _, _, slot in slots(decoder) for weight in slot.inside]
        wanted = [packed if packed and weight in packed else (weight,) for weight in every]
    else:
        wanted = [names[name] for name in shape.targets]
    covered = list(dict.fromkeys(wanted))
    twice = [name for name in {name for covers in covered for name in covers} if sum(name in c for c in covered) > 1]
    if twice:
        raise UserError(f"two targets cover {', '.join(sorted(twice))}", where="tune.targets", do="keep one of them")
    decoder.requires_grad_(False)
    for layer, _, slot in slots(decoder):
        chosen = [covers for covers in covered if set(covers) <= slot.inside.keys()]
        if chosen:
            pairs = [_new_pair(slot, covers, shape, f"{seed}:layers.{layer}.{'_'.join(covers)}") for covers in chosen]
            slot.adapters = LoRA(pairs, shape.dropout)
    decoder.random = shape.dropout > 0


def detach(decoder: Decoder) -> None:
    """Takes all adapters off."""
    for _, _, slot in slots(decoder):
        slot.adapters = None


def trained(decoder: Decoder) -> Iterator[tuple[int, Projection, LoRA]]:
    """(layer, projection, adapter) where there is one that can be trained or merged."""
    for layer, _, slot in slots(decoder):
        if isinstance(slot.adapters, LoRA):
            yield layer, slot, slot.adapters


def has_adapter(decoder: Decoder) -> bool:
    """Whether an adapter that can be trained or merged is on."""
    return next(trained(decoder), None) is not None


@contextmanager
def adapters_off(decoder: Decoder) -> Iterator[None]:
    """Within it the decoder computes as without its adapter: a reference that costs no second copy."""
    found = [adapter for _, _, adapter in trained(decoder)]
    before = [adapter.on for adapter in found]
    for adapter in found:
        adapter.on = False
    try:
        yield
    finally:
        for adapter, on in zip(found, before, strict=True):
            adapter.on = on


def copy_structure(decoder: Decoder, blank: Decoder) -> None:
    """Puts adapters of the same shapes, without values, on a decoder of the same shape."""
    blank.requires_grad_(False)
    like = {(layer, name): slot.adapters for layer, name, slot in slots(decoder)}
    for layer, name, slot in slots(blank):
        adapter = like[layer, name]
        if isinstance(adapter, LoRA):
            slot.adapters = LoRA([_blank_pair(pair) for pair in adapter.of()], adapter.dropout)


def _blank_pair(pair: Pair) -> Pair:
    copy = Pair(pair.covers, _blank(pair.a), _blank(pair.b), pair.scale)
    for name in ("magnitude", "start_a", "start_b"):
        value = getattr(pair, name)
        setattr(copy, name, None if value is None else nn.Parameter(_blank(value), value.requires_grad))
    return copy


def _blank(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, device="meta")


def adapter_parts(decoder: Decoder) -> Iterator[Part]:
    """The adapter's parameters as parts: `layers.0.q.a`, `.b`, `.magnitude`, `.start_a`, `.start_b`."""
    for number, block in enumerate(decoder.blocks):
        for name, parameter in block.named_parameters():
            slot, _, own = name.partition(".adapters.pairs.")
            if own:
                part = f"layers.{number}.{own}"
                holder = f"blocks.{number}.{slot}.adapters.pairs.{own}"
                yield Part(part, part, holder, parameter, tuple(parameter.shape), lambda whole: whole)


@torch.no_grad()
def merge(decoder: Decoder, dtype: torch.dtype) -> None:
    """Adds the adapter to the weights, in float32, and takes it off; a quantised weight becomes one of `dtype`."""
    for _, slot, adapter in list(trained(decoder)):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        a_RI, b_OR = adapter.low_rank(slot)
        weight = slot.whole_weight(wide) + b_OR.to(wide) @ a_RI.to(wide)
        if adapter.has_magnitudes:
            weight *= adapter.gains(slot, a_RI, b_OR).to(wide)[:, None]
        slot.weight = nn.Parameter(weight.to(dtype))
        slot.quantised = slot.adapters = None
    for _, _, slot in slots(decoder):
        if slot.quantised is not None:
            slot.weight = nn.Parameter(slot.whole_weight(dtype))
            slot.quantised = None


def load_several(decoder: Decoder, adapters: Sequence[Mapping[tuple[int, str], LoRA]], dtype: torch.dtype) -> None:
    """Puts several adapters on, to be chosen by row; each is {(layer, name of the projection): LoRA}."""
    for layer, name, slot in slots(decoder):
        found = [adapter.get((layer, name)) for adapter in adapters]
        if any(found):
            with torch.no_grad():
                slot.adapters = Several(slot, found, dtype)


def _new_pair(slot: Projection, covers: Sequence[str], shape: AdapterShape, name: str) -> Pair:
    width, rows = slot.in_features, sum(slot.inside[part] for part in covers)
    if shape.start == "pissa" and shape.rank > min(width, rows):
        raise UserError(
            f"rank {shape.rank} is beyond {name.partition(':')[2]}, which is {rows} × {width}",
            where="tune.rank",
            do=f"set it to {min(width, rows)} or less",
        )
    device = slot.device
    pair = Pair(covers, torch.empty(shape.rank, width), torch.zeros(rows, shape.rank), shape.scale())
    if device.type == "meta":
        pair.to("meta")
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)
    if device.type != "meta":
        pair.a.data.uniform_(-(width**-0.5), width**-0.5, generator=generator)
    if shape.magnitudes or shape.start == "pissa":
        weight = slot.whole_weight(torch.float32).detach()
        own = torch.cat([slot.view(part)(weight).reshape(-1, width) for part in covers])
        if shape.magnitudes:
            pair.magnitude = nn.Parameter(torch.linalg.vector_norm(own, dim=1))
        if shape.start == "pissa":
            pair.begin_at(*_principal(own, shape.rank, pair.scale, generator))
    kind = torch.float64 if slot.bias is not None and slot.bias.dtype == torch.float64 else torch.float32
    return pair.to(device, kind)


def _principal(weight_OI: Tensor, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A and B of the greatest singular values, so that scale · B A is their share of the weight."""
    if weight_OI.device.type == "meta":
        return weight_OI.new_empty(rank, weight_OI.shape[1]), weight_OI.new_empty(weight_OI.shape[0], rank)
    if min(weight_OI.shape) <= EXACT_SVD:
        u, s, vh = torch.linalg.svd(weight_OI, full_matrices=False)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(generator.initial_seed())
            u, s, v = torch.svd_lowrank(weight_OI, q=2 * rank, niter=SVD_ROUNDS)
            vh = v.mH
    root = s[:rank].div(scale).sqrt()
    # Contiguous: the optimizer takes moments and weights for laid out alike.
    return (root[:, None] * vh[:rank]).contiguous(), (u[:, :rank] * root).contiguous()
