"""A packed token set of any size: one shard of random documents, written once and linked as often as asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.manifest import read_manifest
from danlu.tokens.columns import Columns
from danlu.tokens.shards import token_dtype, write_shard, write_token_set
from danlu.tokens.spelling import Spelling

SHARD = 1 << 24
"""Tokens of a shard."""


def synthetic_set(
    folder: Path,
    tokens: int,
    *,
    spelling: Spelling,
    tokenizer: str,
    template: str = "",
    mean: int = 700,
    copies: bool = True,
) -> dict[str, Any]:
    """Writes a set of about so many tokens in documents of exponential length; gives its manifest.

    With `copies` each shard is a file of its own, so that what reads
    them all reads as many bytes; otherwise all are links to one.
    """
    folder.mkdir(parents=True)
    random, each = np.random.default_rng(0), min(SHARD, tokens)
    lengths = np.maximum(random.exponential(mean, 2 * each // mean + 16).astype(np.int64), 8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[offsets <= each]
    documents, real = len(offsets) - 1, int(offsets[-1])
    columns = Columns(
        tokens=random.integers(0, len(spelling), real).astype(token_dtype(len(spelling))),
        document_offsets=offsets.astype(np.int64),
        source=np.zeros(documents, np.int32),
        hash=random.integers(0, 1 << 63, documents).astype(np.uint64),
        bytes=np.diff(offsets).astype(np.int32) * 4,
    )
    entry = write_shard(folder / "shard-00000.safetensors", columns)
    entries = [entry]
    for number in range(1, max(round(tokens / each), 1)):
        name = f"shard-{number:05d}.safetensors"
        (shutil.copyfile if copies else os.link)(folder / entry["file"], folder / name)
        entries.append({**entry, "file": name})
    write_token_set(
        folder, entries, unit="document", spelling=spelling, tokenizer=tokenizer, template=template, sources=["random"]
    )
    return read_manifest(folder) or {}
