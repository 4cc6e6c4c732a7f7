"""Parts: the unfused weights q, k, v, gate and up seen inside the fused parameters that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from danlu.model.families.table import FAMILIES
from danlu.model.projection import Projection

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """A weight under its own name, inside a parameter that may hold others beside it.

    Works on any tensor of the parameter's whole shape: the parameter, its gradient, a moment, a master copy.
    """

    name: str
    """Such as `layers.0.q.weight`, `layers.0.down.weight`, `embed.weight`."""
    on_disk: str
    """The name that the family gives it in Hugging Face's form."""
    holder: str
    """The parameter's name in the decoder, such as `blocks.0.qkv.weight`."""
    parameter: nn.Parameter
    shape: tuple[int, ...]
    """As a weight of its own: [out, in], [out] or [rows, width]."""
    view: View
    """From a tensor of the parameter's shape to this part of it, sharing memory; its sizes multiply out to `shape`."""

    def read(self, tensor: Tensor) -> Tensor:
        """This part of `tensor` in its own shape; a copy where the rows do not lie together."""
        return self.view(tensor).reshape(self.shape)

    def write(self, tensor: Tensor, value: Tensor) -> None:
        """Puts `value` in this part of `tensor`, in place."""
        place = self.view(tensor)
        place.copy_(value.reshape(place.shape))


def parts(decoder: Decoder) -> Iterator[Part]:
    """The parts of every parameter but those of adapters, in the decoder's order; a tied head has none of its own."""
    family = FAMILIES[decoder.settings.family]
    for holder, parameter in decoder.named_parameters():
        if ".adapters." in holder:
            continue
        own = holder.replace("blocks.", "layers.").replace("head.linear.", "head.")
        before, module, kind = own.rpartition(".")[0].rpartition(".")[0], *own.split(".")[-2:]
        inside: list[tuple[str, int, View]] = [(module, parameter.shape[0], _whole)]
        slot = decoder.get_submodule(holder.rpartition(".")[0])
        if isinstance(slot, Projection):
            inside = [(name, rows, slot.view(name)) for name, rows in slot.inside.items()]
        for weight, rows, view in inside:
            name = ".".join(filter(None, (before, weight, kind)))
            yield Part(name, family.on_disk(name), holder, parameter, (rows, *parameter.shape[1:]), view)


def unfused_state(
    decoder: Decoder, tensors: Mapping[str, Tensor] | None = None, parts: Iterable[Part] | None = None
) -> dict[str, Tensor]:
    """The decoder's weights, detached, under the names and in the shapes of the family's Hugging Face form.

    `tensors` {parameter name: tensor of its shape} replaces the weights: gathered shards, gradients, moments.
    `parts` are others than the decoder's own, such as an adapter's.
    Parts that lie together share memory with their parameter, the others are copies.
    """
    return {
        part.on_disk: part.read((part.parameter if tensors is None else tensors[part.holder]).detach())
        for part in (decoder.parts() if parts is None else parts)
        if tensors is None or part.holder in tensors
    }


def fused_state(
    decoder: Decoder, state: Mapping[str, Tensor], parts: Iterable[Part] | None = None
) -> dict[str, Tensor]:
    """The reverse of `unfused_state`: {parameter name: tensor of its shape} out of unfused names, on the CPU.

    Raises KeyError for a name that is missing, ValueError for a wrong shape.
    """
    fused: dict[str, Tensor] = {}
    for part in decoder.parts() if parts is None else parts:
        value = _fitting(state, part)
        if part.holder not in fused:
            fused[part.holder] = torch.empty(part.parameter.shape, dtype=value.dtype)
        part.write(fused[part.holder], value)
    return fused


def load_unfused(decoder: Decoder, state: Mapping[str, Tensor]) -> None:
    """Copies weights under unfused names into the decoder, in its dtype and on its device.

    Raises KeyError for a name that is missing, ValueError for a wrong shape.
    """
    for part in decoder.parts():
        part.write(part.parameter.detach(), _fitting(state, part))


def initialise(decoder: Decoder, seed: int, within: str = "") -> None:
    """Random weights: normal with `init_std` for matrices, 0 for biases, 1 for norms, as transformers' own; of those
    parts only whose name begins with `within`.

    A weight depends on the seed and its name alone, not on device, dtype, order or what else there is.
    """

    def fill(part: Part) -> None:
        part.write(part.parameter.detach(), _initial(part, decoder.settings.init_std, seed))

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, (part for part in decoder.parts() if part.name.startswith(within))))


def _initial(part: Part, std: float, seed: int) -> Tensor:
    if len(part.shape) == 1:
        return torch.zeros(part.shape) if part.name.endswith("bias") else torch.ones(part.shape)
    digest = hashlib.sha256(f"{seed}:{part.on_disk}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(part.shape).normal_(0.0, std, generator=generator)


def _fitting(state: Mapping[str, Tensor], part: Part) -> Tensor:
    value = state[part.on_disk]
    if tuple(value.shape) != part.shape:
        raise ValueError(f"{part.on_disk} is {list(value.shape)}, the decoder's is {list(part.shape)}")
    return value


def _whole(tensor: Tensor) -> Tensor:
    return tensor
