"""A training process holds one shard a source and the next, whatever the corpus weighs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
