"""The stream: the same steps whatever the ranks, rows, workers and interruptions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.ledger.errors import UserError
from danlu.tokens.batch import Batch
from danlu.tokens.characters import TokenBytes
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import Entry, Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Step, Stream

LENGTH, VOCABULARY = 32, 4000
SPELLING = Spelling(TokenBytes.of([b"x" * (number % 3 + 1) for number in range(VOCABULARY)]), np.arange(VOCABULARY) < 2)
UNITS = {"window": "concat", "document": "best_fit", "conversation": "best_fit", "pair": "best_fit"}
quick = settings(max_examples=25, deadline=None)


def write(
    folder: Path, unit: str, examples: int, seed: int = 0, longest: int = LENGTH, shard_tokens: int = 300
) -> TokenSet:
    """A token set whose documents begin with a token that tells them apart."""
    rng = np.random.default_rng(seed)
    each = 2 if unit == "pair" else 1
    with TokenSetWriter(folder, unit, SPELLING, tokenizer="t", shard_tokens=shard_tokens) as writer:
        for number in range(examples):
            documents = []
            for side in range(each):
                tokens = rng.integers(2, VOCABULARY, rng.integers(2, longest + 1)).astype(np.uint32)
                tokens[0] = 2 + number * each + side + 1000 * seed
                weights = np.ones(len(tokens)) if unit in ("window", "document") else rng.integers(0, 2, len(tokens))
                starts = np.zeros(1, np.int32)
                documents.append(
                    Encoded(tokens, weights.astype(np.float32), starts, *[np.ones(1, np.uint8)] * 3, len(tokens))
                )
            writer.add(Example(documents, f"file-{number % 3}", (seed << 32) + number))
    return TokenSet.open(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[TokenSet]]:
    folder = tmp_path_factory.mktemp("sets")
    return {unit: [write(folder / f"{unit}-{seed}", unit, 60 + 30 * seed, seed) for seed in (0, 1)] for unit in UNITS}


def stream(sets: list[TokenSet], unit: Any, **settings: Any) -> Stream:
    given = {"length": LENGTH, "unit": unit, "pack": UNITS[unit], "seed": 3, "epochs": 2, **settings}
    return Stream([(token_set, 1.0) for token_set in sets], **given)


def documents(batches: list[Batch[np.ndarray]]) -> Counter[tuple[int, ...]]:
    """All documents that are not padding: (source, number, weights, tokens …)."""
    found: Counter[tuple[int, ...]] = Counter()
    for batch in batches:
        for slot in np.flatnonzero(batch.doc["index"] >= 0):
            here = slice(batch.cu[slot], batch.cu[slot + 1])
            key = [
                batch.source[slot],
                batch.doc["index"][slot],
                batch.weights.ravel()[here].sum(),
                *batch.tokens.ravel()[here],
            ]
            found[tuple(int(value) for value in key)] += 1
    return found


def totals(step: Step) -> tuple[Any, ...]:
    return step.consumed, step.weight_sum, step.examples, step.pairs, step.tokens, step.text_bytes


@pytest.mark.parametrize("unit", UNITS)
def test_ranks_and_rows_do_not_change_a_step(sets: dict[str, list[TokenSet]], unit: str) -> None:
    made, least = stream(sets[unit], unit), 2 if unit == "pair" else 1
    for start, count in ((0, 40), (37, 90), (made.total - 7, 40)):
        expected = made.step(start, count, rows=2)
        whole = documents(expected.micro)
        for world in (1, 2, 3, 4, 8):
            for rows in (2, 3, 8):
                ranks = [made.step(start, count, rank, world, rows) for rank in range(world)]
                assert len({len(rank.micro) for rank in ranks}) == 1 and ranks[0].micro
                batches = [batch for rank in ranks for batch in rank.micro]
                assert documents(batches) == whole
                assert {totals(rank) for rank in ranks} == {totals(expected)}
                assert sum(float(batch.target_weights.sum()) for batch in batches) == expected.weight_sum
                assert sum(batch.text_bytes for batch in batches) == expected.text_bytes
                assert sum(batch.real_tokens for batch in batches) == expected.tokens
                held = [[len(batch.tokens) for batch in rank.micro] for rank in ranks]
                assert {*held[0][:-1]} <= {rows} and held == [held[0]] * world, "no rank waits for another"
                assert held[0][-1] in {rows, *(max(least, -(-rows // part)) for part in (2, 4))}
                assert all(batch.cu.shape == (made.shape(len(batch.tokens)).slots + 1,) for batch in batches)
                assert ranks[0].padding == pytest.approx(1 - expected.tokens / (world * sum(held[0]) * LENGTH))


@pytest.mark.parametrize("unit", UNITS)
def test_every_example_exactly_once_an_epoch(sets: dict[str, list[TokenSet]], unit: str) -> None:
    made = stream(sets[unit], unit)
    each = 2 if unit == "pair" else 1
    for epoch in (0, 1):
        seen: Counter[int] = Counter()
        at = epoch * made.epoch
        while at < (epoch + 1) * made.epoch:
            step = made.step(at, min(17, (epoch + 1) * made.epoch - at), rows=2)
            at = step.consumed
            for batch in step.micro:
                seen.update(batch.tokens.ravel()[batch.document >= 0][(batch.source >= 0)[batch.document]].tolist())
        stored = Counter(
            token
            for token_set in sets[unit]
            for number in range(len(token_set))
            for document in token_set.example(number).documents
            for token in document.tokens.tolist()
        )
        assert seen == stored, "the multiset of tokens is kept"
    if unit != "window":
        assert (
            made.epoch
            == sum(len(token_set) for token_set in sets[unit])
            == sum(s.documents for s in sets[unit]) // each
        )


@quick
@given(unit=st.sampled_from(list(UNITS)), counts=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_resuming_anywhere_equals_going_on(sets: dict[str, list[TokenSet]], unit: str, counts: list[int]) -> None:
    """Batch sizes may change between steps; a fresh stream at the same integer gives the same arrays."""
    made, at = stream(sets[unit], unit), 0
    for count in counts:
        if at >= made.total:
            break
        one, other = made.step(at, count, 0, 2, 3), stream(sets[unit], unit).step(at, count, 0, 2, 3)
        assert totals(one) == totals(other)
        for batch, again in zip(one.micro, other.micro, strict=True):
            assert np.array_equal(batch.tokens, again.tokens) and np.array_equal(batch.targets, again.targets)
        assert one.consumed == min(at + count, made.total)
        at = one.consumed


@quick
@given(data=st.data(), skip=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=4))
def test_skipped_positions_are_passed_over(
    sets: dict[str, list[TokenSet]], data: st.DataObject, skip: list[tuple[int, int]]
) -> None:
    made = stream(sets["conversation"], "conversation", skip=skip)
    skipped = {position for start, end in skip for position in range(start, end)}
    wanted = [
        position for position in range(stream(sets["conversation"], "conversation").total) if position not in skipped
    ]
    seen, at = [], 0
    count = data.draw(st.integers(20, 90))
    while at < made.total:
        taken = list(made.examples(at, count))
        assert len(taken) == min(count, len(wanted) - len(seen)) > 0
        seen += [example.position for example in taken]
        at = made.step(at, count, rows=4).consumed
    assert seen == wanted


@pytest.mark.parametrize("unit", ["document", "conversation"])
def test_packing_does_not_change_what_a_step_sees(sets: dict[str, list[TokenSet]], unit: str) -> None:
    packed, plain = stream(sets[unit], unit), stream(sets[unit], unit, pack="none")
    one, other = packed.step(20, 50, rows=4), plain.step(20, 50, rows=4)
    assert documents(one.micro) == documents(other.micro) and totals(one) == totals(other)
    assert one.padding < other.padding


def test_epochs_and_seeds_have_their_own_order(sets: dict[str, list[TokenSet]]) -> None:
    made, other = (stream(sets["document"], "document", seed=seed) for seed in (3, 4))
    first = [example.place for example in made.examples(0, made.epoch)]
    assert first != [example.place for example in made.examples(made.epoch, made.epoch)]
    assert first != [example.place for example in other.examples(0, made.epoch)]


def test_sources_mix_by_their_weights(sets: dict[str, list[TokenSet]]) -> None:
    one, two = sets["document"]
    made = Stream([(one, 2.0), (two, 0.5)], length=LENGTH, unit="document", pack="best_fit")
    sources = [example.place.source for example in made.examples(0, made.total)]
    assert Counter(sources) == {0: 120, 1: 45} and made.total == 165
    for at in range(made.total):
        assert abs(sources[:at].count(0) - at * 120 / 165) <= 1.5


def test_a_set_smaller_than_a_batch_or_the_ranks(tmp_path: Path) -> None:
    made = stream([write(tmp_path / "set", "conversation", 3)], "conversation", epochs=1)
    ranks = [made.step(0, 1000, rank, 8, 4) for rank in range(8)]
    assert {len(rank.micro) for rank in ranks} == {1} and {rank.consumed for rank in ranks} == {3}
    assert sum(documents([batch for rank in ranks for batch in rank.micro]).values()) == 3
    assert min(rank.micro[0].real_tokens for rank in ranks) == 0
    assert len(list(made.steps(0, 1000))) == 1


@pytest.mark.parametrize("pack", ["best_fit", "none"])
@pytest.mark.parametrize("unit", ["document", "pair"])
def test_the_last_micro_batches_have_the_fewest_rows_that_hold_them(
    sets: dict[str, list[TokenSet]], unit: str, pack: str
) -> None:
    """Few shapes for a compiler, else as many rows as there are tokens for, but for what packing leaves free."""
    made, rows, world, found = stream(sets[unit], unit, pack=pack), 8, 2, []
    for count in range(3, 60, 3):
        whole, shapes = documents(made.step(5, count, rows=2).micro), []
        for one in (made, made.with_any_rows()):
            ranks = [one.step(5, count, rank, world, rows) for rank in range(world)]
            shapes.append([len(batch.tokens) for batch in ranks[0].micro])
            assert documents([batch for rank in ranks for batch in rank.micro]) == whole
        few, least = shapes
        assert few[:-1] == least[:-1] == [rows] * (len(few) - 1)
        assert few[-1] == min(shape for shape in (2, 4, 8) if shape >= least[-1])
        found.append(least[-1])
        if pack == "best_fit" and unit == "document":
            alone = made.with_any_rows().step(5, count, rows=64)
            assert len(alone.micro) == 1 and 0 <= len(alone.micro[0].tokens) * LENGTH - alone.tokens < LENGTH
    assert len(set(found)) > 3


def test_rows_that_cost_the_least(sets: dict[str, list[TokenSet]], tmp_path: Path) -> None:
    """Whole micro-batches are worth more than as many tokens in smaller ones; much padding is not."""
    windows = stream([write(tmp_path / "set", "window", 300, longest=1024)], "window", length=1024)
    assert {rows: windows.fullest_rows(96, 1, rows) for rows in (24, 31, 96)} == {24: 24, 31: 24, 96: 96}
    assert windows.with_any_rows().fullest_rows(96, 1, 31) == 31
    assert stream(sets["pair"], "pair").fullest_rows(4, 1, 2) == 2


def test_pairs_lie_whole_in_one_micro_batch(sets: dict[str, list[TokenSet]]) -> None:
    made = stream(sets["pair"], "pair")
    step = made.step(0, 50, rows=2)
    assert step.pairs == step.examples == 50 and len(step.micro) > 5
    for batch in step.micro:
        index, pair, chosen = (batch.doc[name] for name in ("index", "pair", "chosen"))
        for number in range(pair.max() + 1):
            slots = np.flatnonzero(pair == number)
            assert len(slots) == 2 and sorted(chosen[slots]) == [0, 1] and len(set(batch.source[slots])) == 1
            good, bad = sorted(slots, key=lambda slot: -chosen[slot])
            assert index[bad] == index[good] + 1 and index[good] % 2 == 0
    with pytest.raises(UserError, match="rows"):
        made.step(0, 50, rows=1)


def test_windows_hold_the_text_in_its_order(tmp_path: Path) -> None:
    token_set = write(tmp_path / "set", "document", 40, longest=50)
    made = stream([token_set], "window", epochs=1)
    text = [
        np.concatenate([token_set.shard(n)[i].tokens for i in range(len(token_set.shard(n)))])
        for n in range(len(token_set.shards))
    ]
    for example in made.examples(0, made.total):
        start = example.place.index * LENGTH
        tokens = np.concatenate([placed.encoded.tokens for placed in example.documents])
        assert np.array_equal(tokens, text[example.place.shard][start : start + LENGTH])
    apart, joined = (stream([token_set], "window", isolate=isolate).step(0, 16, rows=4) for isolate in (True, False))
    assert [b.tokens.tolist() for b in apart.micro] == [b.tokens.tolist() for b in joined.micro]
    assert joined.weight_sum == joined.tokens - sum((b.source >= 0).sum() for b in joined.micro)
    assert joined.weight_sum > apart.weight_sum


def test_a_step_does_not_look_at_all_shards(sets: dict[str, list[TokenSet]], monkeypatch: pytest.MonkeyPatch) -> None:
    counts, counted = Counter[str](), Entry.most_documents

    def most_documents(entry: Entry, length: int) -> int:
        counts[entry.sha256] += 1
        return counted(entry, length)

    monkeypatch.setattr(Entry, "most_documents", most_documents)
    many = stream(sets["window"], "window", pack="concat")
    for start in range(0, 12, 4):
        many.step(start, 4, rows=2)
    assert counts and set(counts.values()) == {1}


def test_long_documents_come_in_parts(tmp_path: Path) -> None:
    made = stream([write(tmp_path / "set", "document", 20, longest=200)], "document", epochs=1)
    for example in made.examples(0, made.total):
        whole = made.sets[0].shard(example.place.shard)[example.place.index].tokens
        assert np.array_equal(np.concatenate([placed.encoded.tokens for placed in example.documents]), whole)
        assert all(len(placed) == LENGTH for placed in example.documents[:-1])


@pytest.mark.parametrize("unit", UNITS)
def test_traces_name_the_texts(sets: dict[str, list[TokenSet]], unit: str) -> None:
    made = stream(sets[unit], unit)
    for trace, example in zip(made.trace(5, 30), made.examples(5, 30), strict=True):
        token_set = made.sets[example.place.source]
        each = 2 if unit == "pair" else 1
        hashes = [token_set.example(placed.index // each).hash for placed in example.documents]
        assert trace.position == example.position and trace.source == token_set.name
        assert trace.hashes == tuple(dict.fromkeys(hashes))
        assert trace.shard == token_set.shards[example.place.shard].file


def test_columns_reach_their_documents(sets: dict[str, list[TokenSet]]) -> None:
    reference = [
        np.arange(token_set.documents, dtype=np.float32) + 1000 * n for n, token_set in enumerate(sets["pair"])
    ]
    made = stream(sets["pair"], "pair", columns={"reference": reference})
    for batch in made.step(3, 40, rows=4).micro:
        real = batch.source >= 0
        assert (batch.doc["reference"][real] == batch.doc["index"][real] + 1000 * batch.source[real]).all()


def test_sets_that_do_not_go_together(sets: dict[str, list[TokenSet]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unit pair"):
        stream(sets["pair"], "conversation")
    with pytest.raises(UserError, match="concat"):
        stream(sets["document"], "document", pack="concat")
    with pytest.raises(UserError, match="isolate"):
        stream(sets["pair"], "pair", isolate=False)
    with TokenSetWriter(tmp_path / "other", "document", SPELLING, tokenizer="other"):
        pass
    with pytest.raises(UserError, match="another tokenizer"):
        stream([*sets["document"], TokenSet.open(tmp_path / "other")], "document")
    with pytest.raises(UserError, match="nothing to train on"):
        stream([TokenSet.open(tmp_path / "other")], "document")
