"""Time to load a model folder onto a device, against reading its bytes and against transformers; page cache warm.

    python benchmarks/load.py [--folder FOLDER | --gigabytes 14] [--device cuda] [--dtype bfloat16] [--rounds 5]

Without a folder one of Llama-2-7B's width is written first, with as many layers as give the size, in bf16 and shards
of 5 GB. All ways run in turn in every round after one that is not counted, so that files lie in the page cache and
kernels are there; medians are shown. `reading` reads every file from its beginning to its end into one buffer of
16 MB. Host memory is the growth of the process's resident peak, which counts pages of files that are mapped.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.settings import ModelSettings

WIDTH, MLP, HEADS, VOCABULARY = 4096, 11_008, 32, 32_000
GB, BUFFER = 1e9, 1 << 24


def write(folder: Path, gigabytes: float, device: torch.device) -> None:
    """A folder of so many gigabytes, of random weights in bf16."""
    ends, layer = 2 * VOCABULARY * WIDTH, 4 * WIDTH**2 + 3 * WIDTH * MLP
    width = 1 if gigabytes >= 2 else 4  # small folders are of narrower layers
    layers = max(1, round((gigabytes * GB / 2 - ends / width) / (layer / width**2)))
    shape = ModelSettings(
        family="llama", vocab_size=VOCABULARY, hidden_size=WIDTH // width, mlp_size=MLP // width, layers=layers,
        heads=HEADS, max_positions=4096, tie_embeddings=False,
    )  # fmt: skip
    decoder = Decoder.empty(shape, torch.bfloat16, device)
    for weight in decoder.parameters():
        weight.data.normal_(0, 0.02)
    save_decoder(decoder, folder)


def read(folder: Path) -> None:
    buffer = memoryview(bytearray(BUFFER))
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def ways(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    def theirs() -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=str(device))

    return {
        "reading": lambda: read(folder),
        "danlu": lambda: load_decoder(folder, dtype, device),
        "transformers": theirs,
    }


def measured(way: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds, and bytes by which the host's resident peak grew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, start = resident("VmRSS"), time.perf_counter()
    made = way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    del made
    return seconds, resident("VmHWM") - before


def resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=14.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch) / "model"
        if given.folder is None:
            write(folder, given.gigabytes, device)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        largest = max(path.stat().st_size for path in folder.glob("*.safetensors"))
        runs = ways(folder, device, dtype)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for number in range(given.rounds + 1):
            for name, way in runs.items():
                result = measured(way, device)
                if number:
                    found[name].append(result)
    reading = statistics.median(seconds for seconds, _ in found["reading"])
    print(
        f"{size / GB:.2f} GB, largest file {largest / GB:.2f} GB, to {device} in {given.dtype}, {given.rounds} rounds"
    )
    print(f"{'way':14}{'seconds':>9}{'GB/s':>8}{'x reading':>11}{'host GB':>9}")
    table = []
    for name, results in found.items():
        seconds, host = (statistics.median(values) for values in zip(*results, strict=True))
        row = {"way": name, "seconds": seconds, "times_reading": seconds / reading, "host_bytes": host}
        table.append(row | {"bytes": size, "device": str(device), "all_seconds": [one for one, _ in results]})
        print(f"{name:14}{seconds:9.3f}{size / GB / seconds:8.2f}{seconds / reading:11.2f}{host / GB:9.2f}")
    if given.json:
        given.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
