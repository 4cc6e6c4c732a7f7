"""Safetensors files written a tensor at a time: little memory, and Python's lock is free while bytes are written.

The library's `save_file` holds a copy of all bytes and the lock; training beside it stood still (docs/log.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_CHUNK = 1 << 24


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Writes tensors of floating point, each in `dtype` (None: its own), and gives the file's sha256.

    `metadata` is kept in the header. The form is that of the safetensors library: a length, a header in JSON, then the
    values end to end.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in tensors.items():
        kind = dtype or tensor.dtype
        begin, end = end, end + tensor.numel() * kind.itemsize
        header[name] = {"dtype": _NAMES[kind], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
            digest.update(piece)
        for tensor in tensors.values():
            held = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous().reshape(-1)
            values = held.view(torch.uint8).numpy().data
            for start in range(0, len(values), _CHUNK):
                file.write(values[start : start + _CHUNK])
                digest.update(values[start : start + _CHUNK])
    return digest.hexdigest()
