"""A base and the adapters over it that one engine holds, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from danlu.infer.engine import BASE
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.model.adapt import load_several, trained
from danlu.model.adapter_folder import (
    Base,
    StoredAdapter,
    attach_stored,
    base_folder,
    is_adapter,
    loras,
    read_adapter,
)
from danlu.model.decoder import Decoder
from danlu.model.open import Quantisation, open_decoder


@dataclass(frozen=True)
class Voices:
    """`name` is what answers where nothing else is asked for: the engine's adapter `first`, or the base."""

    base: Path
    adapters: list[StoredAdapter]
    name: str
    first: int
    others: dict[str, int]
    """Number of each other name; that of the base is `BASE`."""

    @classmethod
    def of(cls, folder: Path, name: str, adapters: Mapping[str, Path]) -> Voices:
        """A model's folder, or an adapter's, called `name`, with further adapters over the same base.

        No adapter may be called `name`. Raises UserError for what is no adapter.
        """
        stored = {own: _read(path) for own, path in adapters.items()}
        others = {own: number for number, own in enumerate(stored)}
        if not is_adapter(folder):
            return cls(folder, list(stored.values()), name, BASE, others)
        main = read_adapter(folder)
        base, last = base_folder(main), len(stored)
        if main.score is not None and stored:
            raise UserError("a reward model takes no further adapters", where=str(folder), do="load each by itself")
        (called,) = told_apart([base], {*others, name})
        return cls(base, [*stored.values(), main], name, last, {**others, called: BASE})

    @property
    def over(self) -> Quantisation | None:
        """What the base was held in when its adapters were trained; None for its own format, or where they differ."""
        return "nf4" if self.adapters and all(one.shape.over == "nf4" for one in self.adapters) else None

    def open(self, dtype: torch.dtype, device: torch.device, quantisation: Quantisation | None = None) -> Decoder:
        """The base's decoder with the adapters on it. Raises UserError for an adapter of another base."""
        decoder = open_decoder(self.base, dtype, device, quantisation=quantisation)
        base = Base.of(self.base) if self.adapters else None
        if self.adapters and self.adapters[-1].score is not None:
            attach_stored(decoder, self.adapters[-1], base)
            for _, _, adapter in trained(decoder):
                adapter.to(dtype)
        elif self.adapters:
            load_several(decoder, [loras(decoder, one, base) for one in self.adapters], dtype)
        return decoder


def told_apart(folders: Sequence[Path], taken: Set[str] = frozenset()) -> list[str]:
    """Names of folders: each its own, after as many of those above it as tell it from the others and what is `taken`.

    `runs/a/sft` and `runs/b/sft` are called `a/sft` and `b/sft`; the same folder twice has one name.
    """
    paths = [folder.resolve() for folder in folders]

    def name(path: Path) -> str:
        for count in range(1, len(path.parts)):
            own = _end(path, count)
            if own not in {*taken, *(_end(other, count) for other in paths if other != path)}:
                return own
        return str(path)

    return [name(path) for path in paths]


def _end(path: Path, count: int) -> str:
    return "/".join(path.parts[-count:])


def words_of(folder: Path) -> Path:
    """Where the tokenizer is: in the folder itself, or, for an adapter that brings none, in its base's."""
    brings = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    return base_folder(read_adapter(folder)) if is_adapter(folder) and not brings else folder


def _read(path: Path) -> StoredAdapter:
    folder = resolve_checkpoint(path)
    if not is_adapter(folder):
        raise UserError("a whole model, not an adapter", where=str(folder), do="load it by itself")
    stored = read_adapter(folder)
    if stored.score is not None:
        do = "load it by itself"
        raise UserError("an adapter of a reward model, which writes no answers", where=str(folder), do=do)
    return stored
