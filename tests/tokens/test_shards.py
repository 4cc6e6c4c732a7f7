"""Token sets on disk: what is written is read, and damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.ledger.errors import UserError
from danlu.tokens.characters import TokenBytes
from danlu.tokens.columns import Columns
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import SPANS, Entry, Example, TokenSet, TokenSetWriter, token_dtype, write_shard
from danlu.tokens.spelling import Spelling


def spelling(vocabulary: int = 300) -> Spelling:
    special = np.arange(vocabulary) < 3
    return Spelling(TokenBytes.of([b"x" * (number % 4 + 1) for number in range(vocabulary)]), special)


@st.composite
def encoded(draw: st.DrawFn) -> Encoded:
    size = draw(st.integers(1, 12))
    starts = np.array(sorted({0, *draw(st.lists(st.integers(0, size - 1), max_size=3))}), np.int32)
    if draw(st.booleans()):
        starts = starts[:0]
    return Encoded(
        tokens=np.array(draw(st.lists(st.integers(0, 299), min_size=size, max_size=size)), np.uint32),
        weights=np.array(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=size, max_size=size)), np.float32),
        piece_starts=starts,
        piece_kinds=np.arange(len(starts), dtype=np.uint8),
        piece_roles=np.arange(len(starts), dtype=np.uint8)[::-1].copy(),
        piece_turns=np.arange(len(starts), dtype=np.int16),
        text_bytes=draw(st.integers(0, 99)),
    )


def same(one: Encoded, other: Encoded) -> bool:
    arrays = ("tokens", "weights", "piece_starts", "piece_kinds", "piece_roles", "piece_turns")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    dtypes = all(getattr(one, name).dtype == getattr(other, name).dtype for name in arrays)
    return equal and dtypes and one.text_bytes == other.text_bytes


@settings(max_examples=40, deadline=None)
@given(st.lists(encoded(), min_size=1, max_size=9), st.integers(1, 40), st.sampled_from(["conversation", "pair"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[Encoded], shard_tokens: int, unit: str
) -> None:
    folder = tmp_path_factory.mktemp("set")
    each = 2 if unit == "pair" else 1
    examples = [
        Example(texts[at : at + each], f"file {at % 2}", at << 60) for at in range(0, len(texts) - each + 1, each)
    ]
    with TokenSetWriter(folder, unit, spelling(), tokenizer="t", template="u", shard_tokens=shard_tokens) as writer:
        for example in examples:
            writer.add(example)
    token_set = TokenSet.open(folder)
    token_set.verify()
    assert len(token_set) == len(examples) == token_set.manifest["examples"]
    for number, example in enumerate(examples):
        read = token_set.example(number)
        assert (read.source, read.hash) == (example.source, example.hash)
        assert all(same(*both) for both in zip(read.documents, example.documents, strict=True))
    assert token_set.manifest["tokens"] == sum(len(text) for example in examples for text in example.documents)
    assert np.array_equal(token_set.spelling.text_bytes[:5], [0, 0, 0, 4, 1])
    for entry in token_set.shards:
        assert entry.tokens <= shard_tokens or entry.documents == each


@settings(max_examples=40, deadline=None)
@given(st.lists(encoded(), min_size=1, max_size=12), st.data())
def test_columns_join_slice_and_take(texts: list[Encoded], data: st.DataObject) -> None:
    def columns(some: list[Encoded]) -> Columns:
        return Columns.of(some, [0] * len(some), range(len(some)), np.dtype(np.uint16))

    middle = data.draw(st.integers(0, len(texts)))
    joined = Columns.join([columns(texts[:middle]), columns(texts[middle:])])
    assert all(same(joined[at], text) for at, text in enumerate(texts))
    start = data.draw(st.integers(0, len(texts)))
    end = data.draw(st.integers(start, len(texts)))
    assert [same(joined.slice(start, end)[at], texts[start + at]) for at in range(end - start)].count(False) == 0
    order = data.draw(st.permutations(range(len(texts))))
    assert all(same(joined.take(np.array(order))[at], texts[number]) for at, number in enumerate(order))


def written(folder: Path, documents: int = 6) -> TokenSet:
    rng = np.random.default_rng(0)
    none = np.zeros(0, np.int32)
    with TokenSetWriter(folder, "document", spelling(), tokenizer="t", shard_tokens=100) as writer:
        for number in range(documents):
            tokens = rng.integers(0, 300, 50).astype(np.uint32)
            text = Encoded(tokens, np.ones(50, np.float32), none, none, none, none, 50)
            writer.add(Example([text], "a", number))
    return TokenSet.open(folder)


def test_plain_documents_keep_no_weights_and_no_pieces(tmp_path: Path) -> None:
    shard = written(tmp_path / "set").shard(0)
    assert shard.weights is None and shard.piece_offsets is None and shard.tokens.dtype == np.uint16


def test_equal_sets_have_equal_fingerprints(tmp_path: Path) -> None:
    one, other, more = written(tmp_path / "one"), written(tmp_path / "two"), written(tmp_path / "three", 7)
    assert one.fingerprint == other.fingerprint != more.fingerprint


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    written(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    if damage == "flip":
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    token_set = TokenSet.open(tmp_path)
    assert token_set.example(0).hash == 0, "other shards can be read"
    with pytest.raises(UserError, match="shard-00001"):
        token_set.verify()
    with pytest.raises(UserError, match="shard-00001"):
        token_set.example(3)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_that_is_no_shard_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        Columns.open(tmp_path / "x.safetensors")


def test_a_folder_without_a_manifest_is_no_token_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete token set"):
        TokenSet.open(tmp_path)


def test_a_broken_off_writer_leaves_no_token_set(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TokenSetWriter(tmp_path / "set", "document", spelling(), tokenizer="t"):
        raise RuntimeError
    with pytest.raises(UserError):
        TokenSet.open(tmp_path / "set")


def test_an_empty_set(tmp_path: Path) -> None:
    with TokenSetWriter(tmp_path / "set", "pair", spelling(), tokenizer="t"):
        pass
    assert len(TokenSet.open(tmp_path / "set")) == 0


def test_dtypes() -> None:
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=80), st.integers(1, 64))
def test_the_bound_on_documents_in_a_window_holds(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int
) -> None:
    texts = [Encoded(*[np.zeros(size, np.uint32)] * 2, *[np.zeros(0, np.uint8)] * 4, 0) for size in sizes]
    columns = Columns.of(texts, [0] * len(sizes), [0] * len(sizes), np.dtype(np.uint16))
    entry = Entry(**write_shard(tmp_path_factory.mktemp("shard") / "s", columns))
    document = np.repeat(np.arange(len(sizes)), sizes)
    most = max(len(set(document[at : at + length].tolist())) for at in range(0, len(document), length))
    assert most <= entry.most_documents(length) and length <= SPANS[-1]
