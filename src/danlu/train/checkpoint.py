"""A checkpoint: a Hugging Face folder with the whole state of the run in it, which appears whole or not at all.

step-000000100/
  config.json, model.safetensors, tokenizer.json, ...   what AutoModelForCausalLM opens, in the format computed in;
  adapter_config.json, adapter_model.safetensors, ...   of an adapter, what PEFT opens over the base
  state/parameters.safetensors                          float32, unsharded, unfused names
  state/optimizer.safetensors                           moments as "<moment>/<parameter>", likewise
  state/trainer.json                                    position, step, RNG, schedule, health, config, fingerprints
  manifest.json                                         step, size and sha256 of each file
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from danlu.ledger.checkpoints import STATE, checkpoint_folder
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder, read_json, require_space, sha256_file
from danlu.ledger.manifest import read_manifest, write_manifest
from danlu.model.adapt import AdapterShape, adapter_parts, has_adapter
from danlu.model.adapter_folder import Base, write_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder, save_words
from danlu.model.parts import Part, fused_state, unfused_state
from danlu.model.settings import ModelSettings, parameters
from danlu.model.tensors import write_tensors
from danlu.train.memory import COPIED
from danlu.train.optim import MOMENTS, Optimizer
from danlu.train.parallel import World, share_of, whole
from danlu.train.precision import DTYPES, Masters
from danlu.train.rounding import rounded
from danlu.train.settings import TrainSettings
from danlu.train.staging import Staging
from danlu.train.tune_settings import LoRA, trained_parameters

if TYPE_CHECKING:
    from danlu.tokens.tokenizer import Tokenizer

PARAMETERS, OPTIMIZER, TRAINER = (
    f"{STATE}/parameters.safetensors",
    f"{STATE}/optimizer.safetensors",
    f"{STATE}/trainer.json",
)
GO_BACK = "delete this checkpoint; the one before it is gone on from"
ADAPTER = ".adapters."  # in the names of an adapter's parameters
WRITERS = 3  # weights, parameters and moments are the large files


@dataclass(frozen=True)
class Snapshot:
    """Copies of a run's tensors, whole and in float32 or better, under the decoder's own names."""

    parameters: dict[str, Tensor]
    frozen: dict[str, Tensor]
    """What is not trained and yet belongs to the checkpoint."""
    moments: dict[str, dict[str, Tensor]]
    taken: torch.cuda.Event | None
    """When copies that lie on a GPU are there; None where they lie on the CPU."""
    updates: int | None
    """How many had been made where the network computes with parameters that are rounded at random; else None."""

    def computed(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the network computes with, to the bit; of a copy on the CPU."""
        if self.updates is None:
            return {**self.frozen, **self.parameters}
        made = {name: rounded(value, dtype, name, self.updates) for name, value in self.parameters.items()}
        return {**self.frozen, **made}

    def to_host(self) -> Snapshot:
        """The same on the CPU; GPU memory is given back tensor by tensor, and training there goes on meanwhile."""
        if self.taken is None:
            return self
        staging = Staging(torch.device("cuda"), after=self.taken)
        for tensors in (self.parameters, self.frozen, *self.moments.values()):
            for name in tensors:
                tensors[name] = staging.to_host(tensors[name])
        return replace(self, taken=None)


def take_snapshot(masters: Masters, optimizer: Optimizer, world: World) -> Snapshot:
    """Gathers the state of all processes, which must call this together; only the main one keeps it.

    Of a frozen base under an adapter nothing is kept.

    On a GPU with room for them the copies stay there, which takes milliseconds instead of seconds.
    """
    moments, mine = optimizer.moments(), {name: value.detach() for name, value in masters.parameters.items()}
    stay = _room(masters, moments, world)
    keep = torch.Tensor.clone if stay else Staging(world.device).to_host

    def kept(held: Mapping[str, Tensor], gathered: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        # Gathering made a copy already, and so does a way to the CPU.
        return {
            name: full if stay and full is not held.get(name) else keep(full) for name, full in gathered if world.main
        }

    adapted = any(ADAPTER in name for name in masters.trained)
    frozen = {name: value.detach() for name, value in masters.frozen.items() if ADAPTER in name or not adapted}
    parameters = kept(mine, masters.whole(mine))
    others = kept(frozen, ((name, whole(tensor)) for name, tensor in frozen.items()))
    gathered = {name: kept(held, masters.whole(held)) for name in MOMENTS for held in [moments.get(name, {})]}
    taken = torch.cuda.Event() if world.device.type == "cuda" and stay else None
    if taken is not None:
        taken.record()
    held = {name: values for name, values in gathered.items() if values}
    return Snapshot(parameters, others, held, taken, optimizer.updates if masters.rounds else None)


def _room(masters: Masters, moments: Mapping[str, Mapping[str, Tensor]], world: World) -> bool:
    """Whether the copies fit where the tensors are; on a CPU, where a copy is due, they always must."""
    if world.device.type != "cuda":
        return True
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in masters.parameters.items()}
    copies = sum(sizes.values()) + sum(sizes[name] for names in moments.values() for name in names)
    held = torch.cuda.memory_reserved(world.device) - torch.cuda.memory_allocated(world.device)
    free = torch.cuda.mem_get_info(world.device)[0] + held // 2  # what the allocator holds is in pieces
    processes = world.size if masters.apart else 1
    return processes * copies < COPIED * free


def write_checkpoint(
    out: Path,
    snapshot: Snapshot,
    trainer: Mapping[str, Any],
    blank: Decoder,
    tokenizer: Tokenizer | None,
    stop_ids: Sequence[int],
    dtype: torch.dtype,
    *,
    weights_only: bool = False,
    keep: bool = False,
    adapter: tuple[AdapterShape, Base] | None = None,
) -> Path:
    """Writes the checkpoint of `trainer["step"]` under `out` and gives its folder.

    `blank` is any decoder of the shape, with an adapter where one is trained; its weights are not looked at. `stop_ids`
    end generation. `adapter` says how the adapter was made and over which base.
    The state is read back and compared with what was to be written before the folder appears. `keep` marks it as never
    to be deleted.
    Raises UserError where the disk is too full, naming what is needed and what is free.
    """
    snapshot, path = snapshot.to_host(), checkpoint_folder(out, trainer["step"])
    require_space(out, checkpoint_bytes(snapshot, dtype, weights_only), "a checkpoint")
    parts, everything = _parts(blank), {**snapshot.frozen, **snapshot.parameters}
    hashes: dict[str, str] = {}
    with atomic_folder(path, replace=True) as folder:
        if adapter is None:
            weights = unfused_state(blank, snapshot.computed(dtype))
            save_decoder(blank, folder, tokenizer, dtype=dtype, stop_ids=stop_ids, state=weights)
        else:
            write_adapter(blank, folder, *adapter, everything)
            save_words(folder, tokenizer, stop_ids)
        if not weights_only:
            (folder / STATE).mkdir()
            moments = {
                f"{moment}/{name}": tensor
                for moment, values in snapshot.moments.items()
                for name, tensor in unfused_state(blank, values, parts).items()
            }
            kept = {name: value for name, value in everything.items() if name in snapshot.parameters or ADAPTER in name}
            states = {PARAMETERS: unfused_state(blank, kept, parts), OPTIMIZER: moments}
            written = _beside(write_tensors, [folder / name for name in states], states.values())
            hashes = dict(zip(states, written, strict=True))
            (folder / TRAINER).write_text(json.dumps(trainer, ensure_ascii=False, indent=1), "utf-8")
        files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
        contents = {
            entry.relative_to(folder).as_posix(): {"bytes": entry.stat().st_size, "sha256": digest}
            for entry, digest in zip(files, _beside(sha256_file, files), strict=True)
        }
        for name, digest in hashes.items():
            if contents[name]["sha256"] != digest:
                raise UserError("could not be read back as written", where=str(folder / name), do="check the disk")
        summary = {name: trainer[name] for name in ("step", "epoch", "held_out_loss", "fingerprints")}
        write_manifest(folder, {**summary, "keep": keep, "files": contents})
    return path


def _beside(call: Callable[..., str], *given: Iterable[Any]) -> list[str]:
    """`call` for each of what is given, side by side: writing and hashing take most of the time of a checkpoint."""
    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(call, *given))


def read_trainer(path: Path) -> dict[str, Any]:
    """trainer.json of a checkpoint. Raises UserError where it holds no state to resume from."""
    file = path / TRAINER
    if not file.is_file():
        raise UserError("no state to resume from", where=str(path), do="name a checkpoint saved without weights_only")
    return read_json(file, GO_BACK)


def verify(path: Path, but: Collection[str] = ()) -> None:
    """Raises UserError naming the first file, of those in `but` aside, that is not as it was written."""
    manifest = read_manifest(path)
    if manifest is None:
        do = GO_BACK if path.name.startswith("step-") else "name a step-… folder of a run"
        raise UserError("not a checkpoint: no manifest.json", where=str(path), do=do)
    for name, written in manifest["files"].items():
        file = path / name
        if name in but:
            continue
        if not file.is_file():
            raise UserError("missing, though the checkpoint was written with it", where=str(file), do=GO_BACK)
        if file.stat().st_size != written["bytes"] or sha256_file(file) != written["sha256"]:
            raise UserError("damaged: not as it was written", where=str(file), do=GO_BACK)


def restore(path: Path, blank: Decoder, masters: Masters, optimizer: Optimizer, updates: int) -> None:
    """Puts a checkpoint's parameters and moments into `masters` and `optimizer`, whatever world size wrote them.

    `blank` is any decoder of the shape; its weights are not looked at.
    """
    full = _fused(blank, load_file(path / PARAMETERS))
    with torch.no_grad():
        for name, parameter in {**masters.frozen, **masters.parameters}.items():
            if name in full:
                parameter.copy_(share_of(full[name], parameter))
    masters.publish(updates)
    saved: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path / OPTIMIZER).items():
        moment, _, name = key.partition("/")
        saved.setdefault(moment, {})[name] = tensor
    mine = masters.parameters
    moments = {
        moment: {name: share_of(value, mine[name]) for name, value in _fused(blank, values).items() if name in mine}
        for moment, values in saved.items()
    }
    optimizer.load(moments, updates)


def checkpoint_bytes(snapshot: Snapshot, dtype: torch.dtype, weights_only: bool) -> int:
    """What a checkpoint takes on disk, tokenizer left aside."""
    weights = sum(tensor.numel() for tensor in (*snapshot.parameters.values(), *snapshot.frozen.values()))
    state = [*snapshot.parameters.values(), *(t for values in snapshot.moments.values() for t in values.values())]
    return weights * dtype.itemsize + (0 if weights_only else sum(tensor.nbytes for tensor in state))


def expected_bytes(shape: ModelSettings, settings: TrainSettings) -> int:
    """What a checkpoint of a run will take at most, known before it begins."""
    state = 0 if settings.save.weights_only else 12  # float32 weights and two moments
    trained = trained_parameters(settings.tune, shape)
    written = trained if isinstance(settings.tune, LoRA) else parameters(shape)
    return written * DTYPES[settings.precision].itemsize + trained * state


def _fused(blank: Decoder, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a decoder's own parameter names, of those parameters of which a part is given under its unfused
    name; parts that are not given are zero.
    """
    kind, parts = next(iter(tensors.values())).dtype, _parts(blank)
    given = {part.holder for part in parts if part.on_disk in tensors}
    parts = [part for part in parts if part.holder in given]
    zeros = {part.on_disk: torch.zeros(part.shape, dtype=kind) for part in parts if part.on_disk not in tensors}
    return fused_state(blank, {**zeros, **tensors}, parts)


def _parts(blank: Decoder) -> list[Part]:
    """What a checkpoint's state is made of: the parts of all weights, or of an adapter and, with it, a reward head."""
    if not has_adapter(blank):
        return list(blank.parts())
    return [*adapter_parts(blank), *(part for part in blank.parts() if part.name.startswith("reward."))]
