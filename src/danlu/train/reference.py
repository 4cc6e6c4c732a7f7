"""Log-probabilities of every answer under the starting weights: computed once, kept on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save

from danlu.ledger.errors import Stopped
from danlu.ledger.files import atomic_file, fingerprint
from danlu.ledger.signals import Stop
from danlu.model.adapt import adapter_parts
from danlu.model.decoder import Decoder
from danlu.model.parts import unfused_state
from danlu.train.fewer_rows import fewer_rows
from danlu.train.network import Network
from danlu.train.objectives.pairs import document_logp
from danlu.train.parallel import World
from danlu.train.step import DoesNotFit

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

COLUMN = "reference"
CONSUMED = "consumed"
BATCH = 256  # examples that are packed together; changes nothing but padding


def weights_fingerprint(decoder: Decoder) -> str:
    """The hex SHA-256 of a decoder's shape and weights, adapter and all, whatever way they are fused."""
    digest = hashlib.sha256(decoder.settings.model_dump_json().encode())
    held = {**unfused_state(decoder), **unfused_state(decoder, parts=adapter_parts(decoder))}
    quantised = {name: buffer for name, buffer in decoder.named_buffers() if ".quantised." in name}
    for name, tensor in (held | quantised).items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def with_reference(
    stream: Stream, network: Network, weights: str, rows: int, world: World, cache: Path, stop: Stop
) -> Stream:
    """`stream` with the column "reference" [documents of each source], float64, in nats.

    `weights` is the fingerprint of the network's weights. What `cache` holds for the same weights, number format and
    data is read from there; else all processes compute it and the main one writes it. Where memory runs out it goes on
    with fewer than `rows` rows a micro-batch. Raises Stopped when asked to, after saving what was computed.
    """
    key = fingerprint([weights, "float8" if network.float8 else str(network.dtype), stream.once().fingerprint])
    path = cache / f"{key[:32]}.safetensors"
    begun = path.with_suffix(".part")
    found = load_file(path) if path.is_file() else None
    part = _Part.of(stream, begun, world)
    world.wait()  # all have looked before the main process writes
    if found:
        return stream.with_columns({COLUMN: [found[str(number)] for number in range(len(stream.sets))]})
    whole = _compute(part, stream.once(), network, rows, world, stop)
    columns = [np.array(world.total(column.tolist()), np.float64) for column in part.columns]
    if world.main:
        content = {str(number): values for number, values in enumerate(columns)}
        with atomic_file(path if whole else begun, "wb") as handle:
            handle.write(save(content if whole else {**content, CONSUMED: np.array(part.consumed)}))
        if whole:
            begun.unlink(missing_ok=True)
    if not whole:
        raise Stopped("stopped while the reference was computed; the same command goes on from there")
    return stream.with_columns({COLUMN: columns})


@dataclass
class _Part:
    """Columns, float64, with the log-probabilities of the examples before position `consumed`; of what other processes
    computed 0.
    """

    columns: list[np.ndarray]
    consumed: int

    @classmethod
    def of(cls, stream: Stream, begun: Path, world: World) -> _Part:
        """What a run that was stopped left in the file `begun`; else nothing yet."""
        saved = load_file(begun) if begun.is_file() else {}
        blank = [np.zeros(token_set.documents, np.float64) for token_set in stream.sets]
        held = saved if world.main else {}
        columns = [held.get(str(number), column) for number, column in enumerate(blank)]
        return cls(columns, int(saved.get(CONSUMED, 0)))


def _compute(part: _Part, stream: Stream, network: Network, rows: int, world: World, stop: Stop) -> bool:
    """Brings `part` to the end of the stream; False where a process was asked to stop before."""
    network.eval()
    try:
        while True:
            try:
                return _go_on(part, stream, network, rows, world, stop)
            except DoesNotFit as error:
                rows = fewer_rows(error, rows, stream.least_rows, "the reference log-probabilities", world)
    finally:
        network.train()


@torch.no_grad()
def _go_on(part: _Part, stream: Stream, network: Network, rows: int, world: World, stop: Stop) -> bool:
    try:
        for step in stream.steps(part.consumed, BATCH, world.rank, world.size, rows):
            if world.any(stop.requested):
                return False
            for micro in (*step.micro, *step.aside):
                logp_D, _ = document_logp(network, micro.torch(world.device))
                real_D = micro.doc["index"] >= 0
                for number, column in enumerate(part.columns):
                    here_D = real_D & (micro.source == number)
                    column[micro.doc["index"][here_D]] = logp_D.cpu().numpy()[here_D]
            part.consumed = step.consumed
        return True
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # out here the traceback is gone, and with it what was held
    raise DoesNotFit(agreed=world.size == 1)
