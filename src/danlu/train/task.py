"""What a run trains, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.ledger.files import fingerprint
from danlu.ledger.signals import Stop
from danlu.model.decoder import Decoder
from danlu.train import parallel, reference
from danlu.train.network import Network
from danlu.train.objectives.base import Objective

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Task:
    """What is trained, and on what. `decoder` is float32 on the CPU and used up; `held_out` are streams of one epoch
    by source.
    """

    objective: Objective
    decoder: Decoder
    tokenizer: Tokenizer
    template: Template | None
    stream: Stream
    held_out: Mapping[str, Stream]
    out: Path
    cache: Path

    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must share with the run that goes on from it."""
        return {
            "objective": self.objective.name,
            "model": fingerprint(self.decoder.settings.model_dump(mode="json")),
            "tokenizer": self.tokenizer.fingerprint,
            "template": self.template.fingerprint if self.template else "",
            "data": self.stream.fingerprint,
        }

    def with_reference(self, network: Network, weights: str, rows: int, world: parallel.World, stop: Stop) -> Task:
        """The same with what `network`, whose weights have the fingerprint `weights`, says of every answer."""

        def add(stream: Stream) -> Stream:
            return reference.with_reference(stream, network, weights, rows, world, self.cache, stop)

        held_out = {source: add(stream) for source, stream in self.held_out.items()}
        return replace(self, stream=add(self.stream), held_out=held_out)
