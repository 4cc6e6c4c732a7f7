"""A training process holds one shard a source and the next, whatever the corpus weighs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from danlu.ledger.manifest import read_manifest
from danlu.tokens.characters import TokenBytes
from danlu.tokens.columns import Columns
from danlu.tokens.shards import shard_name, write_shard, write_token_set
from danlu.tokens.spelling import Spelling

SHARD, DOCUMENT, LENGTH = 1 << 19, 2048, 2048
READER = """
import sys
from pathlib import Path
from danlu.tokens.shards import TokenSet
from danlu.tokens.stream import Stream
stream = Stream([(TokenSet.open(Path(sys.argv[1])), 1.0)], length=int(sys.argv[2]), unit="window", pack="concat")
tokens = sum(step.tokens for step in stream.steps(0, 32, rows=8))
assert tokens == stream.sets[0].manifest["tokens"]
assert "torch" not in sys.modules
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]))
"""


def corpus(folder: Path, shards: int) -> Path:
    rng = np.random.default_rng(0)
    entries = []
    for number in range(shards):
        documents = SHARD // DOCUMENT
        columns = Columns(
            tokens=rng.integers(0, 500, SHARD).astype(np.uint16),
            document_offsets=np.arange(0, SHARD + 1, DOCUMENT),
            source=np.zeros(documents, np.int32),
            hash=rng.integers(0, 1 << 63, documents).astype(np.uint64),
            bytes=np.full(documents, DOCUMENT, np.int32),
        )
        folder.mkdir(exist_ok=True)
        entries.append(write_shard(folder / shard_name(number), columns))
    spelling = Spelling(TokenBytes.of([b"x"] * 500), np.zeros(500, bool))
    write_token_set(folder, entries, unit="window", spelling=spelling, tokenizer="t", template="", sources=["a"])
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for shards in (2, 40):
        folder = corpus(tmp_path / str(shards), shards)
        arguments = [sys.executable, "-c", READER, str(folder), str(LENGTH)]
        peaks.append(int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.1 * peaks[0], f"peak kB of a corpus and of one 20 times as large: {peaks}"
    assert 0.3 * peaks[0] < 40 * SHARD * 2 / 1024, "the large corpus would show if it were held"


SPARSE_READER = """
import sys
from pathlib import Path
from danlu.tokens import shards
from danlu.tokens.curriculum import Curriculum
from danlu.tokens.order import Grades
from danlu.tokens.stream import Stream
opened = []
read = shards.Columns.open
shards.Columns.open = classmethod(lambda cls, path: opened.append(path) or read(path))
count, bands = int(sys.argv[2]), 4
grades = Grades([[64] * count] * bands, [0.0, 0.2, 0.4, 0.6])
for curriculum in (None, Curriculum("length", "low", grades)):
    found = shards.TokenSet.open(Path(sys.argv[1]), held=2 * bands)
    stream = Stream(
        [(found, 1.0)], length=2048, unit="document", pack="best_fit", epochs=2, curricula=[curriculum]
    )
    assert stream.total == 2 * 256 * count
    for start in (0, stream.epoch // 2, stream.epoch - 8, stream.total - 64):
        assert stream.step(start, 64, rows=4).examples == 64
assert len(opened) <= 4 * (2 + 2 * bands), len(opened)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_reading_anywhere_costs_the_same_with_many_shards(tmp_path: Path) -> None:
    """20,000 shards that are names of one: a trillion tokens of ordinary shards would be as many."""
    entry = read_manifest(corpus(tmp_path / "one", 1))
    assert entry is not None
    peaks = []
    for count in (20, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(tmp_path / "one" / shard_name(0), folder / shard_name(number))
        entries = [{**entry["shards"][0], "file": shard_name(number)} for number in range(count)]
        spelling = Spelling(TokenBytes.of([b"x"] * 500), np.zeros(500, bool))
        write_token_set(folder, entries, unit="document", spelling=spelling, tokenizer="t", template="", sources=["a"])
        arguments = [sys.executable, "-c", SPARSE_READER, str(folder), str(count)]
        peaks.append(int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 20_000 * 3, f"a manifest's line a shard and no more: {peaks} kB of 20 and of 20,000"
