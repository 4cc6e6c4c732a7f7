"""One process or several: the group, the shards, and the way between a shard and the whole tensor."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from danlu.train.settings import Sharding


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def total(self, values: list[float]) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def least(self, value: int) -> int:
        """The smallest of the processes' values."""
        if self.size == 1:
            return value
        held = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.all_reduce(held, dist.ReduceOp.MIN)
        return int(held)

    def any(self, said: bool) -> bool:
        """Whether one of the processes says so."""
        return self.total([float(said)])[0] > 0

    def wait(self) -> None:
        """Returns once every process has come here."""
        self.any(False)


def join(device: str | None = None) -> World:
    """The processes that torchrun started, or this one alone.

    `device` is a torch device name; None means CUDA where there is one, else the CPU. The group speaks NCCL on CUDA and
    gloo elsewhere. It lasts as long as the program: a second one in the same job would meet the first one's addresses.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if size == 1:
        return World(0, 1, torch.device(kind))
    here = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return World(rank, size, here, init_device_mesh(here.type, (size,)))


def shard(network: nn.Module, blocks: nn.ModuleList, world: World, dtype: torch.dtype, level: Sharding) -> None:
    """Spreads moments, float32 weights and gradients over the processes, block by block (FSDP2); with `level` "full"
    the weights that are computed with, too.

    Parameters stay in their own format and are gathered as `dtype`; gradients are summed, not averaged, in float32 or
    better, as the objectives divide by the normaliser of the whole step.
    """
    if world.mesh is None:
        return
    widest = next(parameter.dtype for parameter in network.parameters() if parameter.requires_grad)
    policy = MixedPrecisionPolicy(
        param_dtype=dtype if dtype.itemsize < widest.itemsize else None,
        reduce_dtype=widest,
        cast_forward_inputs=False,
    )
    for module in [*blocks, network]:
        sharded = fully_shard(
            module, mesh=world.mesh, mp_policy=policy, reshard_after_forward=level == "full" and module is not network
        )
        assert isinstance(sharded, FSDPModule)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # else a factor asks for an operation that gloo has not


def exchanges_within(network: nn.Module) -> bool:
    """Whether processes wait for one another inside of forward and backward passes."""
    return isinstance(network, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The unsharded tensor; every process must ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of it, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_of(shard: Tensor) -> int:
    """The place, in the whole tensor as it lies in memory, of the first number that this process has of it."""
    if not isinstance(shard, DTensor) or not shard.numel():
        return 0
    mesh, rows = shard.device_mesh, len(shard)
    return min(mesh.get_local_rank() * -(-rows // mesh.size()), rows) * (shard.numel() // rows)


def share_of(full: Tensor, like: Tensor) -> Tensor:
    """This process's share of `full`, with the device, format and sharding of `like`; always a new tensor."""
    made = full.to(device=like.device, dtype=like.dtype, copy=True)
    if isinstance(like, DTensor):
        return distribute_tensor(made, like.device_mesh, like.placements, src_data_rank=None)
    return made
