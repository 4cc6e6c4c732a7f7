"""The part of a stream with a tag: exactly the examples that have it, in their order, whatever is skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.ledger.errors import UserError
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import DOCUMENTS, Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.tokens.tagged import tagged
from danlu.tokens.tokenizer import Tokenizer

LABELS = [(), ("region=四川",), ("age=65+", "region=四川"), ("age=65+",), ("region=Texas", "group=student")]
NONE = np.zeros(0, np.int32)


def written(folder: Path, tokenizer: Path, unit: str, labels: list[int]) -> TokenSet:
    spelling = Spelling.of(Tokenizer.load(tokenizer))
    with TokenSetWriter(folder, unit, spelling, tokenizer="t", shard_tokens=60) as writer:
        for number, label in enumerate(labels):
            one = Encoded(np.full(5, number % 50, np.uint32), np.ones(5, np.float32), NONE, NONE, NONE, NONE, 5)
            writer.add(Example([one] * DOCUMENTS[unit], "s", number, LABELS[label]))
    return TokenSet.open(folder)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.sampled_from(["document", "pair"]),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=2),
)
def test_exactly_what_has_the_tag(
    tmp_path_factory: pytest.TempPathFactory,
    byte_tokenizer: Path,
    labels: list[int],
    unit: str,
    skipped: list[tuple[int, int]],
) -> None:
    token_set = written(tmp_path_factory.mktemp("tagged") / "set", byte_tokenizer, unit, labels)
    stream = Stream(
        [(token_set, 1.0)], length=16, unit=unit, pack="best_fit", seed=3,  # type: ignore[arg-type]
        skip=[(start, start + count) for start, count in skipped],
    )  # fmt: skip
    everything = [number for trace in stream.trace(0, stream.total) for number in trace.hashes]
    parts = tagged(stream, ["region", "age"])
    for tag in ("region=四川", "region=Texas", "age=65+"):
        wanted = [number for number in everything if tag in LABELS[labels[number]]]
        part = parts.get(tag)
        assert (part is not None) == any(tag in LABELS[label] for label in labels)
        if part is not None:
            assert [number for trace in part.trace(0, part.total) for number in trace.hashes] == wanted
            assert sum(step.examples for step in part.steps(0, 4, rows=2)) == len(wanted)
    assert "group=student" not in parts
    assert everything == [number for trace in stream.trace(0, stream.total) for number in trace.hashes]


def test_windows_are_refused(tmp_path: Path, byte_tokenizer: Path) -> None:
    token_set = written(tmp_path / "set", byte_tokenizer, "document", [1, 2, 3])
    stream = Stream([(token_set, 1.0)], length=8, unit="window", pack="concat")
    with pytest.raises(UserError, match="records that stand by themselves"):
        tagged(stream, ["region"])
    assert tagged(stream, []) == {}
