"""The shared pass over characters, against slow plain Python."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plain import PIECES, class_of, lines_of, sentences_of, words_of

from danlu.text.kernels import Batch, Class, Codes, Spans, codes_of, ngrams, rolling_hashes, sums
from danlu.text.records import Conversation, Document
from danlu.text.seen import repeated_ngrams, seen_before

TEXT = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), max_size=30).map("".join)
TEXTS = st.lists(TEXT, max_size=6)


def spelt(codes: Codes, spans: Spans) -> list[list[str]]:
    """The texts of spans, record by record."""
    texts = ["".join(map(chr, codes.points[a:b])) for a, b in zip(spans.start, spans.end, strict=True)]
    return [texts[a:b] for a, b in pairwise(spans.bounds)]


def seen_in(items: list[str]) -> list[bool]:
    return [item in items[:at] for at, item in enumerate(items)]


@given(TEXTS)
@example([])
@example(["", "", "a"])
def test_classes(texts: list[str]) -> None:
    codes = Codes(texts)
    wanted = [[sum(class_of(c) == kind for c in text) for kind in Class] for text in texts]
    assert codes.class_counts.tolist() == wanted
    shares = codes.shares(Class.HAN, Class.FUNCTION)
    for text, share in zip(texts, shares, strict=True):
        assert share == sum(class_of(c) in (Class.HAN, Class.FUNCTION) for c in text) / max(1, len(text))


@pytest.mark.parametrize(("part", "oracle"), [("words", words_of), ("lines", lines_of), ("sentences", sentences_of)])
@given(texts=TEXTS)
@example(texts=["'a'b' 'c", "..", "a.b c. d.", "他说：“好！”然后走了。\n", "x" * 3000])
def test_spans(part: str, oracle: Callable[[str], list[str]], texts: list[str]) -> None:
    codes = Codes(texts)
    assert spelt(codes, getattr(codes, part)) == [oracle(text) for text in texts]


def test_words_and_sentences_of_both_languages() -> None:
    codes = Codes(["我用Python3写don’t-stop，𠀀！", "Mr. Li paid $3.50. 他很高兴。“真的？”"])
    assert spelt(codes, codes.words)[0] == ["我", "用", "Python3", "写", "don’t", "stop", "𠀀"]
    assert spelt(codes, codes.sentences)[1] == ["Mr", "Li paid $3.50", "他很高兴", "真的"]


def test_a_lone_surrogate_is_a_character_of_its_own() -> None:
    assert Codes(["a\ud800"]).class_counts[0, Class.OTHER] == 1


@given(TEXTS, TEXTS)
@example(["b", "a\x00", "a"], ["x"])
def test_hashes_depend_on_the_characters_alone(texts: list[str], others: list[str]) -> None:
    known: dict[int, str] = {}
    for codes in (Codes(texts), Codes(others + texts)):
        for spans in (codes.words, codes.lines):
            found = [text for record in spelt(codes, spans) for text in record]
            for text, value in zip(found, codes.hashes(spans).tolist(), strict=True):
                assert known.setdefault(value, text) == text
    assert len(known) == len(set(known.values()))


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=5), st.integers(1, 5))
def test_ngrams(records: list[list[int]], n: int) -> None:
    units = np.array([unit for record in records for unit in record], np.uint64)
    bounds = np.cumsum([0, *map(len, records)])
    grams = ngrams(units, bounds, n)
    wanted, starts, ends = [], [], [0]
    for start, record in zip(bounds, records, strict=False):
        wanted += [tuple(record[at : at + n]) for at in range(len(record) - n + 1)]
        starts += [int(start) + at for at in range(len(record) - n + 1)]
        ends.append(len(wanted))
    assert grams.first.tolist() == starts and grams.bounds.tolist() == ends
    assert (
        len(set(zip(wanted, grams.hashes.tolist(), strict=True))) == len(set(wanted)) == len(set(grams.hashes.tolist()))
    )


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 21))
def test_rolling_hash_is_a_polynomial(units: list[int], n: int) -> None:
    base = int(rolling_hashes(np.array([1, 0], np.uint64), 2)[0])
    wanted = [
        sum(unit * base ** (n - 1 - at) for at, unit in enumerate(units[i : i + n])) % 2**64
        for i in range(len(units) - n + 1)
    ]
    assert rolling_hashes(np.array(units, np.uint64), n).tolist() == wanted


@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=40), max_size=5))
def test_seen_before(records: list[list[int]]) -> None:
    hashes = np.array([value for record in records for value in record], np.uint64)
    bounds = np.cumsum([0, *map(len, records)])
    assert seen_before(hashes, bounds).tolist() == [seen for record in records for seen in seen_in(record)]


@pytest.mark.parametrize("size", [1, 1 << 15, (1 << 15) + 1, 200_000, 1_000_000])
def test_seen_before_in_long_records(size: int) -> None:
    random = np.random.default_rng(size)
    hashes = random.integers(0, size, size, np.uint64) << np.uint64(40)
    bounds = np.array([0, 0, size // 3, size // 3, size])
    wanted = np.ones(size, bool)
    for a, b in pairwise(bounds):
        wanted[a + np.unique(hashes[a:b], return_index=True)[1]] = False
    assert np.array_equal(seen_before(hashes, bounds), wanted)


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=5), st.integers(1, 5))
def test_repeated_ngrams(records: list[list[int]], n: int) -> None:
    units, bounds = np.array([*chain(*records)], np.uint32), np.cumsum([0, *map(len, records)])
    grams = [[record[at : at + n] for at in range(len(record) - n + 1)] for record in records]
    wanted = [
        [begin + at for at, seen in enumerate(seen_in(own)) if seen]
        for begin, own in zip(bounds.tolist(), grams, strict=False)
    ]
    first, cuts = repeated_ngrams(units, bounds, n)
    assert [first[a:b].tolist() for a, b in pairwise(cuts.tolist())] == wanted


def test_blocks_of_long_records_leave_no_seams() -> None:
    """What is computed a block at a time, against all at once."""
    random = np.random.default_rng(0)
    text = "".join(map(chr, random.choice([32, 10, 97, 49, 0x4E00, 0x7684, 0x1F600], 200_000)))
    long, short = Codes(["好 a", text, "", "b1"]), [Codes([text[at : at + 1000]]) for at in range(0, len(text), 1000)]
    assert long.class_counts[1].tolist() == sum(codes.class_counts[0] for codes in short).tolist()
    assert long.class_counts[[0, 2, 3]].sum(1).tolist() == [3, 0, 2]
    units = random.integers(0, 1 << 60, 200_000, np.uint64)
    pairs = [rolling_hashes(units[at : at + 13], 13)[0] for at in range(65_500, 65_600)]
    assert rolling_hashes(units, 13)[65_500:65_600].tolist() == pairs


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=5))
def test_sums(records: list[list[int]]) -> None:
    values = np.array([value for record in records for value in record], np.int64)
    assert sums(values, np.cumsum([0, *map(len, records)])).tolist() == list(map(sum, records))


def test_a_batch_is_looked_at_once() -> None:
    batch = Batch(
        [Document("你好"), Conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])]
    )
    assert codes_of(batch) is codes_of(batch)
    assert codes_of(batch).lengths.tolist() == codes_of(list(batch)).lengths.tolist() == [2, 3]
