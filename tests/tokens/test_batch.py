"""Batches: what every objective relies on, on random rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.tokens.batch import Placed, Run, Shape, make_batch, totals
from danlu.tokens.encode import Encoded

LENGTH, VOCABULARY = 24, 50
TOKEN_BYTES = np.random.default_rng(0).integers(0, 5, VOCABULARY).astype(np.uint16)


def text(tokens: list[int], weights: list[float]) -> Encoded:
    none = np.zeros(0, np.int32)
    return Encoded(np.array(tokens, np.uint32), np.array(weights, np.float32), none, none, none, none, 0)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Run], Shape]:
    shape = Shape(draw(st.integers(1, 4)), LENGTH, draw(st.integers(1, 5)), draw(st.booleans()), padding_id=7)
    made: list[Run] = []
    number, free = 0, shape.rows
    while free and draw(st.booleans()):
        taken = draw(st.integers(1, free)) if shape.isolate else 1
        run: list[Placed] = []
        for _ in range(draw(st.integers(0, taken * shape.documents))):
            left = taken * LENGTH - sum(len(placed) for placed in run)
            if left == 0:
                break
            size = draw(st.integers(1, min(left, LENGTH)))
            tokens = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=size, max_size=size))
            weights = draw(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=size, max_size=size))
            run.append(Placed(text(tokens, weights), draw(st.integers(0, 1)), number))
            number += 1
        made.append(run)
        free -= taken
    return made, shape


def rows_of(run: Run) -> int:
    return -(-sum(len(placed) for placed in run) // LENGTH)


@settings(max_examples=150, deadline=None)
@given(batches())
def test_invariants(case: tuple[list[Run], Shape]) -> None:
    rows, shape = case
    batch = make_batch(rows, shape, TOKEN_BYTES)
    size = shape.rows * LENGTH
    assert batch.tokens.shape == batch.weights.shape == batch.positions.shape == (shape.rows, LENGTH)
    assert len(batch.cu) == shape.slots + 1 and batch.cu[0] == 0 and batch.cu[-1] == size
    assert (np.diff(batch.cu) >= 0).all()
    assert (batch.document == np.searchsorted(batch.cu, np.arange(size), "right") - 1).all(), "cu covers every token"
    starts = np.cumsum([0, *(rows_of(run) * LENGTH for run in rows)])[:-1]
    assert set(starts.tolist()) <= set(batch.cu.tolist()), "every run begins with a row"
    assert (batch.positions.ravel() == np.arange(size) - batch.cu[batch.document]).all(), "positions restart"
    weights = batch.weights.ravel()
    assert not weights[batch.cu[:-1][batch.cu[:-1] < size]].any(), "a document's first token is nobody's target"
    count = batch.target_count
    assert batch.targets[:count].tolist() == np.flatnonzero(weights).tolist()
    assert batch.target_weights[:count].tolist() == weights[batch.targets[:count]].tolist()
    assert (batch.targets[count:] == 1).all() and not batch.target_weights[count:].any()
    assert len(batch.targets) % shape.bucket == 0 and len(batch.targets) > 0
    spelt = TOKEN_BYTES[batch.tokens.ravel()[batch.targets[:count]]].sum()
    assert totals(rows, shape.isolate, TOKEN_BYTES) == (weights.sum(), spelt, batch.real_tokens)
    assert batch.text_bytes == spelt
    assert np.diff(batch.cu).max() <= batch.max_length <= LENGTH
    assert (np.diff(batch.cu)[: batch.documents] > 0).all() and (np.diff(batch.cu)[batch.documents :] == 0).all()


@settings(max_examples=80, deadline=None)
@given(batches())
def test_documents_are_kept(case: tuple[list[Run], Shape]) -> None:
    rows, shape = case
    batch = make_batch(rows, shape)
    assert batch.real_tokens == sum(len(placed) for row in rows for placed in row)
    at, flat = 0, batch.tokens.ravel().tolist()
    for row in rows:
        whole = [int(token) for placed in row for token in placed.encoded.tokens]
        size = rows_of(row) * LENGTH
        assert flat[at : at + size] == whole + [7] * (size - len(whole))
        at += size
    assert flat[at:] == [7] * (len(flat) - at)
    if not shape.isolate:
        return
    for slot in np.flatnonzero(batch.doc["index"] >= 0):
        placed = next(p for row in rows for p in row if p.index == batch.doc["index"][slot])
        here = slice(batch.cu[slot], batch.cu[slot + 1])
        assert batch.tokens.ravel()[here].tolist() == placed.encoded.tokens.tolist()
        assert batch.weights.ravel()[here][1:].tolist() == placed.encoded.weights[1:].tolist()
        assert batch.source[slot] == placed.source
    assert (batch.doc["index"] >= 0).sum() == sum(len(row) for row in rows)


def test_rows_that_are_one_document_train_across_starts() -> None:
    row = [Placed(text([1, 2, 3], [1, 1, 1]), 0, 4), Placed(text([4, 5], [1, 1]), 0, 5)]
    apart, joined = (make_batch([row], Shape(1, 8, 2, isolate)) for isolate in (True, False))
    assert apart.weights.tolist() == [[0, 1, 1, 0, 1, 0, 0, 0]]
    assert joined.weights.tolist() == [[0, 1, 1, 1, 1, 0, 0, 0]]
    assert joined.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert apart.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    mixed = make_batch([[row[0], Placed(row[1].encoded, 1, 0)]], Shape(1, 8, 2, False))
    assert mixed.source.tolist() == [-1, -1] and joined.source.tolist() == [0, -1]


def test_pairs_and_columns() -> None:
    good, bad = text([1, 2], [0, 1]), text([1, 3], [0, 1])
    rows = [
        [Placed(good, 1, 2, pair=90, chosen=1), Placed(bad, 0, 1, pair=33)],
        [Placed(bad, 1, 3, pair=90), Placed(good, 0, 0, pair=33, chosen=1)],
    ]
    reference = [np.array([0.5, 1.5], np.float32), np.array([2.5, 3.5, 4.5, 5.5], np.float32)]
    batch = make_batch(rows, Shape(3, 4, 2), columns={"reference": reference})
    assert batch.doc["pair"].tolist() == [0, 1, 0, 1, -1, -1, -1, -1, -1]
    assert batch.doc["chosen"].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert batch.doc["reference"].tolist() == [4.5, 1.5, 5.5, 0.5, 0, 0, 0, 0, 0]


def test_all_padding() -> None:
    batch = make_batch([], Shape(2, 8, 3))
    assert batch.target_count == 0 and batch.real_tokens == 0 and (batch.source == -1).all()
    assert batch.targets.tolist() == [1] * 8 and not batch.target_weights.any()


def test_too_many_tokens_or_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="not fit"):
        make_batch([[Placed(text([1] * 9, [1.0] * 9), 0, 0)]], Shape(1, 8, 3))
    with pytest.raises(ValueError, match="not fit"):
        make_batch([[Placed(text([1], [1.0]), 0, 0)] * 4], Shape(1, 8, 2))


def test_as_tensors() -> None:
    batch = make_batch([[Placed(text([1, 2, 3], [0, 1, 1]), 0, 0)]], Shape(1, 4, 2), TOKEN_BYTES)
    tensors = batch.torch("cpu")
    assert tensors.tokens.dtype == tensors.targets.dtype == tensors.positions.dtype == torch.int64
    assert tensors.weights.dtype == tensors.target_weights.dtype == torch.float32
    assert tensors.cu.dtype == tensors.document.dtype == tensors.source.dtype == torch.int32
    assert tensors.doc["index"].dtype == torch.int64
    assert tensors.tokens.tolist() == batch.tokens.tolist() and tensors.text_bytes == batch.text_bytes
