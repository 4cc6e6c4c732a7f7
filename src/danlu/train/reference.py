"""Log-probabilities of every answer under the starting weights: computed once, kept on disk."""

from __future__ import annotations

import hashlib
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
from danlu.train.network import Network
from danlu.train.objectives.pairs import document_logp
from danlu.train.parallel import World

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

COLUMN = "reference"
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
    """`stream` with the column "reference" [documents of each source], float32, in nats.

    `weights` is the fingerprint of the network's weights. What `cache` holds for the same weights, number format and
    data is read from there; else all processes compute it and the main one writes it. Raises Stopped when asked to.
    """
    key = fingerprint([weights, "float8" if network.float8 else str(network.dtype), stream.once().fingerprint])
    path = cache / f"{key[:32]}.safetensors"
    found = path.is_file()
    world.wait()  # all have looked before the main process writes
    if found:
        saved = load_file(path)
        return stream.with_columns({COLUMN: [saved[str(number)] for number in range(len(stream.sets))]})
    columns = _compute(stream.once(), network, rows, world, stop)
    if world.main:
        with atomic_file(path, "wb") as handle:
            handle.write(save({str(number): values for number, values in enumerate(columns)}))
    return stream.with_columns({COLUMN: columns})


@torch.no_grad()
def _compute(stream: Stream, network: Network, rows: int, world: World, stop: Stop) -> list[np.ndarray]:
    network.eval()
    columns = [np.zeros(token_set.documents, np.float64) for token_set in stream.sets]
    for step in stream.steps(0, BATCH, world.rank, world.size, rows):
        if world.any(stop.requested):
            raise Stopped("stopped while the reference was computed; the same command begins anew")
        for micro in (*step.micro, *step.aside):
            logp_D, _ = document_logp(network, micro.torch(world.device))
            real_D = micro.doc["index"] >= 0
            for number, column in enumerate(columns):
                here_D = real_D & (micro.source == number)
                column[micro.doc["index"][here_D]] = logp_D.double().cpu().numpy()[here_D]
    network.train()
    return [np.array(world.total(column.tolist())).astype(np.float32) for column in columns]
