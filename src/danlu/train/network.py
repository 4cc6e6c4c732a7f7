"""The decoder and its head as one module, made ready for a run: recomputation, compilation, shards, number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from danlu.model.attention import Documents, least_shared
from danlu.model.head import RECOMPUTED_CHUNKS
from danlu.train import parallel
from danlu.train.float8 import use_float8
from danlu.train.muon import Matrix
from danlu.train.objectives.base import Needs
from danlu.train.precision import DTYPES, Masters, require_format
from danlu.train.settings import TrainSettings
from danlu.train.tuning import tune

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder
    from danlu.model.settings import ModelSettings
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Stream


class Network(nn.Module):
    """From a batch to what the head says of its targets.

    `dtype` is what is computed in. Decoder and head are one module so that a head tied to the embedding is gathered
    once where parameters are sharded.
    """

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = decoder
        self.dtype = dtype
        self.neftune = 0.0
        self.float8 = False
        """Whether the blocks' products are in float8 (`build` sees to it)."""

    def forward(self, batch: Batch[Tensor], needs: Needs, factor: float = 1.0) -> dict[str, Tensor]:
        """Of `batch.targets`: "logp" [N] and "correct" bool [N]; with "nll" that, the weighted sum times `factor`, too,
        and gradients go through it instead. A reward model gives "value" [D] of each document. All in float32 or
        better.
        """
        if needs == "value":
            assert self.decoder.reward is not None
            return {"value": self.decoder.reward(self.hidden(batch)[batch.cu[1:].long() - 1])}
        labels_N, hidden_ND = self.targets(batch)
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        out = self.decoder.head(hidden_ND, labels_N, batch.target_weights.to(wide) * factor, needs=needs)
        found = {"logp": out.logp, "correct": out.correct}
        return found if out.nll is None else {"nll": out.nll, **found}

    def targets(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
        """Labels [N] of the batch's targets and the hidden states [N, D] that predict them."""
        return batch.tokens.flatten()[batch.targets], self.hidden(batch)[batch.targets - 1]

    def hidden(self, batch: Batch[Tensor]) -> Tensor:
        """The last hidden states of all tokens [B * T, D]."""
        document_BT = batch.document.view_as(batch.tokens)
        length = batch.tokens.shape[1]  # few different bounds, as each is compiled by itself
        bound = max(batch.max_length, length // 4) if torch.is_grad_enabled() else length
        window = self.decoder.settings.sliding_window
        shared_D = batch.doc.get("shared")
        attend = Documents(batch.cu, bound, document_BT, window, self.dtype, batch.documents, shared_D)
        lengths_D = batch.cu.diff() if shared_D is None else batch.cu.diff() + shared_D
        noise_BT = self._noise(lengths_D, document_BT) if self.neftune and self.training else None
        return self.decoder(batch.tokens, batch.positions, attend, noise_BT=noise_BT).flatten(0, 1)

    def _noise(self, lengths_D: Tensor, document_BT: Tensor) -> Tensor:
        """NEFTune's bound for each token: neftune / √(its document's length · width)."""
        lengths_BT = lengths_D[document_BT.long()].clamp(min=1)
        return self.neftune * (lengths_BT * self.decoder.settings.hidden_size).rsqrt().to(self.dtype)


def build(
    decoder: Decoder,
    settings: TrainSettings,
    world: parallel.World,
    dtype: torch.dtype | None = None,
    kind: type[Network] = Network,
    seed: int = 42,
) -> tuple[Network, Masters]:
    """Moves the decoder to the run's device and makes it ready as `settings` say; the decoder belongs to the run from
    then on.

    `dtype` None means that of `settings.precision`; `kind` how the head is computed; `seed` makes a new adapter.
    """
    require_format(settings.precision, world.device)
    dtype = dtype or DTYPES[settings.precision]
    decoder.to(world.device).train()
    tune(decoder, settings.tune, dtype, seed)
    decoder.recompute = settings.recompute
    decoder.head.least_chunks = RECOMPUTED_CHUNKS if settings.recompute and world.device.type == "cuda" else 1
    if _compiles(settings, world.device):
        torch.compiler.reset()  # what earlier runs in this process compiled counts against a limit
        decoder.compile_blocks()
    network = kind(decoder, dtype)
    network.neftune = settings.neftune
    network.float8 = settings.precision == "float8"
    if network.float8:
        use_float8(decoder.blocks)
    level = settings.sharding or "none"
    if world.size > 1 and level in ("gradients", "full"):
        parallel.shard(network, decoder.blocks, world, dtype, level)
    return network, Masters(decoder, dtype, world, level)


def in_its_form(stream: Stream, settings: TrainSettings, shape: ModelSettings, device: torch.device) -> Stream:
    """`stream` with micro-batches of few shapes where blocks are compiled, else with as many rows as they need; pairs
    with their prompt once where that pays.
    """
    compiled, dtype = _compiles(settings, device), DTYPES[settings.precision]
    stream = stream if compiled else stream.with_any_rows()
    if shape.sliding_window is not None:
        return stream
    return stream.with_shared_prompts(least_shared(device, dtype, shape.head_size, compiled))


def _compiles(settings: TrainSettings, device: torch.device) -> bool:
    return device.type == "cuda" if settings.compile is None else settings.compile


def block_matrices(decoder: Decoder) -> dict[str, list[Matrix]]:
    """The matrices inside the blocks (q, k, v, o, gate, up, down) by the parameter that holds them."""
    found: dict[str, list[Matrix]] = {}
    for part in decoder.parts():
        if part.holder.startswith("blocks.") and len(part.shape) == 2:
            found.setdefault(part.holder, []).append(part)
    return found
