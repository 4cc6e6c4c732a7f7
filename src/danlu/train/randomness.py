"""Random generators and deterministic algorithms, put back as they were when a run ends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


def generator_states(device: torch.device) -> dict[str, str]:
    """The states of torch's generators as hexadecimal bytes: "cpu", and "cuda" on a GPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: bytes(state.tolist()).hex() for name, state in states.items()}


def set_generator_states(states: Mapping[str, str], device: torch.device) -> None:
    """Takes what `generator_states` gave, as far as this device has such generators."""
    torch.set_rng_state(_tensor(states["cpu"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(_tensor(states["cuda"]), device)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes what a step draws (dropout, noise) depend on these alone, so that a resumed run draws the same."""
    digest = hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within it torch takes only algorithms that give the same bits each time, if `wanted`."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it before its first use
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _tensor(state: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
