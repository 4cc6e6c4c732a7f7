"""The stream: any step's batches as a pure function of the seed and of one integer, the examples consumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, cast

import numpy as np

from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint
from danlu.tokens.batch import Batch, Placed, Run, Shape, make_batch, sharing, totals
from danlu.tokens.columns import Columns
from danlu.tokens.curriculum import Curriculum
from danlu.tokens.cut import Cut, OldestTurns, Overlong, cut
from danlu.tokens.encode import Encoded
from danlu.tokens.order import Order, Place, merged
from danlu.tokens.packing import Room, micro_batch_cost, micro_batches
from danlu.tokens.settings import Unit
from danlu.tokens.shards import DOCUMENTS, GOOD, Entry, TokenSet, require_one_stream

Packing = Literal["concat", "best_fit", "none"]
_SEARCHED = 1 << 14  # positions that a search has in memory
TOKENS_A_DOCUMENT = 16
"""Best fit puts at most length / this many documents (at least 8) where a row is: the packing limit."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The example at a position of the stream, ready for a row."""

    position: int
    place: Place
    documents: list[Placed]
    """Empty when it was dropped; a document longer than a row comes in parts."""
    reason: str | None = None
    """Why it was cut or dropped."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where an example came from."""

    position: int
    source: str
    hashes: tuple[int, ...]
    """Content hashes of the record, or of all documents in a window."""
    shard: str
    index: int
    """Number of the example in the shard."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one rank. Everything but `micro` is of the whole step, over all ranks."""

    micro: list[Batch[np.ndarray]]
    """This rank's micro-batches; every rank has as many."""
    consumed: int
    """The position at which the next step starts: the whole state of the data side."""
    weight_sum: float
    """Sum of all targets' weights; 0 only where every example was dropped."""
    examples: int
    pairs: int
    """Examples of two documents, but for those that were dropped."""
    tokens: int
    """Tokens that are not padding."""
    text_bytes: int
    """UTF-8 bytes of text that the targets spell."""
    padding: float
    """Share of the computed tokens that is padding."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many examples were cut or dropped, by reason."""
    aside: list[Batch[np.ndarray]] = field(default_factory=list)
    """This rank's micro-batches of answers that were given to another prompt; nothing is learned from them."""


class Stream:
    """Examples of one or several token sets in training order, packed into batches.

    Args:
        sources: token sets of one tokenizer and template, each with its weight: passes over it in one epoch.
        length: T, tokens in a row.
        unit: what is counted: windows of T tokens, documents, conversations, pairs or labelled answers.
        pack: `concat` for windows; `best_fit`, documents end to end in a micro-batch; `none`, one document a row.
        isolate: whether documents in a window are kept from seeing each other.
        epochs: how often; may be a fraction.
        skip: ranges [from, to) of positions that are passed over.
        segments: changes of the weights, (from position, weights).
        overlong: what to do with a single turn longer than a row: drop it, or keep its prompt's `head` or `tail`
            so that the answer has `answer_budget` tokens (half a row unless given).
        oldest_turns: whether turns that do not fit beside the newest are left out, or make windows of their own.
        columns: further values of documents for `Batch.doc`: {name: one array a source, by document number}.
        curricula: for each source its order from easy to hard, or None for an even one.
    """

    def __init__(
        self,
        sources: Sequence[tuple[TokenSet, float]],
        *,
        length: int,
        unit: Unit,
        pack: Packing,
        isolate: bool = True,
        seed: int = 0,
        epochs: float = 1,
        skip: Sequence[tuple[int, int]] = (),
        segments: Sequence[tuple[int, Sequence[float]]] = (),
        overlong: Overlong = "drop",
        answer_budget: int | None = None,
        oldest_turns: OldestTurns = "leave_out",
        padding_id: int = 0,
        columns: Mapping[str, Sequence[np.ndarray]] | None = None,
        curricula: Sequence[Curriculum | None] = (),
    ) -> None:
        self.sets = [token_set for token_set, _ in sources]
        self.length, self.unit, self.pack, self.isolate = length, unit, pack, isolate
        self.skip = merged(skip)
        self.overlong: Overlong = overlong
        self.oldest_turns: OldestTurns = oldest_turns
        self.answer_budget = length // 2 if answer_budget is None else answer_budget
        self._columns, self._padding_id = columns or {}, padding_id
        self._few_shapes, self._least_shared = True, 1.0
        require_one_stream(self.sets, unit, pack, isolate)
        sizes = [[self._examples_in(entry) for entry in token_set.shards] for token_set in self.sets]
        self._curricula = list(curricula)
        grades = [None if one is None else one.grades for one in curricula]
        self._order = Order(sizes, [(0, [weight for _, weight in sources]), *segments], seed, grades)
        self._ranked = lru_cache(maxsize=sum(2 * len(one.sizes) for one in grades if one))(self._rank)
        if self._order.epoch == 0:
            names = ", ".join(str(token_set.folder) for token_set in self.sets)
            raise UserError("there is nothing to train on", where=names, do="look at the pack stage's counts")
        self.fingerprint = fingerprint(
            [
                [(of.fingerprint, weight) for of, weight in sources],
                length, unit, pack == "concat", isolate, seed, segments, overlong, answer_budget,
                *(curricula if any(curricula) else ()),
                *(() if oldest_turns == "leave_out" else (oldest_turns,)),
            ]
        )  # fmt: skip
        """Equal for streams that show the same examples in the same order, whatever the epochs and skipped ranges."""
        self.epoch = self._order.epoch
        """Positions in one epoch."""
        self.total = self._last(round(epochs * self.epoch))
        """Positions in all epochs: training ends when so many are consumed."""
        self._spelling = self.sets[0].spelling

    def once(self) -> Stream:
        """Every example of every source exactly once: one epoch of equal weights, cut as here, nothing skipped."""
        made = Stream(
            [(token_set, 1.0) for token_set in self.sets],
            length=self.length, unit=self.unit, pack=self.pack, isolate=self.isolate, overlong=self.overlong,
            answer_budget=self.answer_budget, oldest_turns=self.oldest_turns, padding_id=self._padding_id,
        )  # fmt: skip
        made._least_shared = self._least_shared
        return made

    def with_columns(self, columns: Mapping[str, Sequence[np.ndarray]]) -> Stream:
        """The same stream with further values of documents, as the argument `columns` gives them."""
        made = copy(self)
        made._columns = {**self._columns, **columns}
        return made

    @property
    def least_rows(self) -> int:
        """The fewest rows of a micro-batch: what must lie in one may need so many."""
        return 2 if self.unit == "pair" else 1

    def with_any_rows(self) -> Stream:
        """The same stream for a network that is not compiled: the last micro-batches of a step have just the rows that
        they need, and not one of few numbers of rows.
        """
        made = copy(self)
        made._few_shapes = False
        return made

    def with_shared_prompts(self, least: float) -> Stream:
        """The same stream, where pairs lie end to end, with what both answers begin with computed once, if it is at
        least that share of the second.
        """
        made = copy(self)
        made._least_shared = least if self.unit == "pair" and self.pack == "best_fit" else 1.0
        return made

    def shape(self, rows: int) -> Shape:
        """The shape of micro-batches of `rows` rows."""
        return Shape(rows, self.length, self._documents_a_row, self.isolate, self._padding_id, self._least_shared < 1)

    def examples(self, start: int, count: int) -> Iterator[Taken]:
        """The next `count` examples from position `start` on, skipped ranges passed over, fewer at the end."""
        for first, number in self._ranges(start, count):
            for position, place in self._places(first, number):
                yield self._take(position, place)

    def step(self, start: int, count: int, rank: int = 0, world: int = 1, rows: int = 1) -> Step:
        """The next `count` examples as micro-batches of `rows` rows, the last of fewer, for one of `world` ranks.

        What a step sees depends on `start` and `count` alone. The last step of a run may have fewer examples.
        """
        ranges = self._ranges(start, count)
        taken = list(self.examples(start, count))
        groups = self._groups(self._items(taken), rows, world)
        aside = self._groups(self._items(taken, aside=True), rows, world) if self.unit == "labelled" else []
        packed = [run for _, runs in groups for run in runs]
        weight_sum, text_bytes, tokens = totals(packed, self.isolate, self._spelling.text_bytes)
        return Step(
            micro=[self._batch(*group) for group in groups[rank::world]],
            consumed=sum(ranges[-1]) if ranges else self.total,
            weight_sum=weight_sum,
            examples=len(taken),
            pairs=sum(bool(example.documents) for example in taken) if DOCUMENTS[self.unit] == 2 else 0,
            tokens=tokens,
            text_bytes=text_bytes,
            padding=1 - tokens / (sum(held for held, _ in groups) * self.length),
            reasons=dict(Counter(example.reason for example in taken if example.reason)),
            aside=[self._batch(*group) for group in aside[rank::world]],
        )

    def steps(self, start: int, count: int, rank: int = 0, world: int = 1, rows: int = 1) -> Iterator[Step]:
        """All steps from position `start` to the end."""
        while start < self.total:
            step = self.step(start, count, rank, world, rows)
            yield step
            start = step.consumed

    def fullest_rows(self, count: int, world: int, most: int, floor: int = 0) -> int:
        """The rows of a micro-batch, `most` or what a step fills, down to a quarter of that, with which twelve steps of
        `count` cost the least: what they compute, padding and all, at least `floor` tokens a micro-batch, and more."""
        starts = sorted({self.epoch * part // 12 for part in range(12)})
        steps = [self._items(list(self.examples(min(start, self.total - 1), count))) for start in starts]
        longest = max(sum(len(document) for item in items for document in item) for items in steps)
        filled = longest // (self.length * world) + 1 if self.pack == "best_fit" else most
        most = max(min(most, filled), self.least_rows)

        def cost(rows: int) -> int:
            held = [held for items in steps for held, _ in self._groups(items, rows, world)]
            return sum(micro_batch_cost(rows * self.length, floor) for rows in held)

        return min(range(most, max(most // 4, self.least_rows) - 1, -1), key=cost)

    def trace(self, start: int, count: int) -> list[Trace]:
        """Which texts a step from `start` of `count` examples sees."""
        found = []
        for first, number in self._ranges(start, count):
            for position, place in self._places(first, number):
                token_set = self.sets[place.source]
                documents = self._documents_at(token_set.shard(place.shard), place.index)
                hashes = token_set.shard(place.shard).hash[documents.start : documents.stop]
                file = token_set.shards[place.shard].file
                found.append(Trace(position, token_set.name, tuple(dict.fromkeys(hashes.tolist())), file, place.index))
        return found

    def find(self, wanted: Set[Place], stop: int) -> Iterator[tuple[int, Place]]:
        """The positions before `stop` at which these examples come; a few million positions a second are looked at."""
        for first, number in self._ranges(0, self.total):
            last = min(first + number, stop)
            for start in range(first, last, _SEARCHED):
                found = self._places(start, min(_SEARCHED, last - start))
                yield from ((position, place) for position, place in found if place in wanted)

    def places_of(self, content: int) -> Iterator[Place]:
        """The examples that hold the record with this content hash, or part of it."""
        for source, token_set in enumerate(self.sets):
            for shard in range(len(token_set.shards)):
                columns = token_set.shard(shard)
                for document in np.flatnonzero(columns.hash == np.uint64(content)).tolist():
                    for index in self._examples_with(columns, document):
                        yield Place(source, shard, index)

    def _examples_with(self, columns: Columns, document: int) -> range:
        """The examples of a shard that hold a document."""
        if self.unit != "window":
            number = document // DOCUMENTS[self.unit]
            return range(number, number + 1)
        start, end = columns.document_offsets[document : document + 2].tolist()
        return range(start // self.length, (end - 1) // self.length + 1)

    @cached_property
    def _documents_a_row(self) -> int:
        if self.unit == "window":
            return max(entry.most_documents(self.length) for token_set in self.sets for entry in token_set.shards)
        return 1 if self.pack == "none" else max(8, self.length // TOKENS_A_DOCUMENT)

    def _places(self, first: int, count: int) -> Iterator[tuple[int, Place]]:
        """The next `count` positions with the shard and the number in it of their examples."""
        for position, place in enumerate(self._order.places(first, count), first):
            if self._curricula and self._curricula[place.source] is not None:
                place = replace(place, index=int(self._ranked(place.source, place.shard)[place.index]))
            yield position, place

    def _rank(self, source: int, shard: int) -> np.ndarray:
        """The numbers of a shard's examples from easy to hard."""
        token_set, curriculum = self.sets[source], self._curricula[source]
        assert curriculum is not None
        return curriculum.ranked(token_set.shard(shard), DOCUMENTS[self.unit], token_set.manifest["scores"])

    def _examples_in(self, entry: Entry) -> int:
        if self.unit == "window":
            return -(-entry.tokens // self.length)
        return entry.documents // DOCUMENTS[self.unit]

    def _documents_at(self, shard: Columns, index: int) -> range:
        """The documents of a shard that its example `index` holds, or holds part of."""
        if self.unit != "window":
            each = DOCUMENTS[self.unit]
            return range(index * each, (index + 1) * each)
        start, end = index * self.length, min((index + 1) * self.length, len(shard.tokens))
        first, last = np.searchsorted(shard.document_offsets, [start, end - 1], "right")
        return range(int(first) - 1, int(last))

    def _take(self, position: int, place: Place) -> Taken:
        token_set = self.sets[place.source]
        shard, first = token_set.shard(place.shard), token_set.first_document(place.shard)
        numbers, reason = self._documents_at(shard, place.index), None
        if self.unit == "window":
            at = place.index * self.length
            parts = [(number, shard.span(number, at, at + self.length)) for number in numbers]
        elif self.unit == "document":
            number = place.index
            start, end = shard.document_offsets[number : number + 2].tolist()
            parts = [(number, shard.span(number, at, at + self.length)) for at in range(start, end, self.length)]
        else:
            kept, reason = self._fit([shard[number] for number in numbers])
            several = len(kept) > len(numbers)  # windows of one conversation; nothing is kept of what is dropped
            parts = [(numbers[0], one) for one in kept] if several else list(zip(numbers, kept, strict=False))
        paired = position if DOCUMENTS[self.unit] == 2 else -1
        chosen = self._chosen(token_set, shard, numbers)
        documents = [
            Placed(part, place.source, first + number, paired, chosen[number - numbers.start]) for number, part in parts
        ]
        if documents and self._least_shared < 1:
            documents = sharing(documents, self._least_shared)
        return Taken(position, place, documents, reason)

    def _chosen(self, token_set: TokenSet, shard: Columns, numbers: range) -> Sequence[int]:
        """`Batch.doc`'s "chosen" of an example's documents."""
        if self.unit == "labelled":
            label = token_set.manifest["labels"][cast(np.ndarray, shard.label)[numbers.start]]
            return int(GOOD in label), -1
        return (1, 0) if self.unit == "pair" else [0] * len(numbers)

    def _items(self, taken: Sequence[Taken], aside: bool = False) -> list[list[Placed]]:
        """Documents that must lie in one micro-batch; with `aside` only answers to another prompt, else none."""
        if self.unit in ("window", "pair"):
            return [example.documents for example in taken if example.documents]
        documents = (document for example in taken for document in example.documents)
        return [[document] for document in documents if (document.chosen < 0) == aside]

    def _fit(self, documents: list[Encoded]) -> Cut:
        if max(map(len, documents)) <= self.length:
            return Cut(documents, None)
        budget, spelt = self.answer_budget, self._spelling.token_bytes
        return cut(documents, self.length, self.overlong, budget, spelt, self.oldest_turns)

    def _groups(self, items: Sequence[list[Placed]], rows: int, world: int) -> list[tuple[int, list[Run]]]:
        """All micro-batches of a step as (rows, runs), a multiple of `world`; each rank takes every world-th."""
        if rows < self.least_rows:
            raise UserError("a pair may need two rows", do="use micro-batches of at least 2 rows")
        if self.pack == "best_fit":
            sizes = [sum(map(len, item)) for item in items]
        else:
            sizes = [self.length * (len(item) if self.pack == "none" else 1) for item in items]
        room = Room(rows, self.length, self._documents_a_row, self.least_rows, self._few_shapes)
        found = micro_batches(sizes, room, world)
        return [(fewer, self._runs([items[number] for number in numbers])) for fewer, numbers in found]

    def _runs(self, items: list[list[Placed]]) -> list[Run]:
        """A micro-batch's documents in one run, in windows, or each by itself."""
        if self.pack == "concat":
            return list(items)
        documents = [document for item in items for document in item]
        return [documents] if self.pack == "best_fit" else [[document] for document in documents]

    def _batch(self, rows: int, runs: Sequence[Run]) -> Batch[np.ndarray]:
        return make_batch(runs, self.shape(rows), self._spelling.text_bytes, self._columns)

    def _ranges(self, start: int, count: int) -> list[tuple[int, int]]:
        """(first position, number) of the next `count` positions that are not skipped."""
        ranges = []
        for skipped_from, skipped_to in [*self.skip, (self.total, self.total)]:
            number = min(count, min(skipped_from, self.total) - start)
            if number > 0:
                ranges.append((start, number))
                count -= number
            if count == 0:
                break
            start = max(start, skipped_to)
        return ranges

    def _last(self, total: int) -> int:
        """The end of the epochs, before ranges skipped there."""
        for skipped_from, skipped_to in reversed(self.skip):
            if skipped_from < total <= skipped_to:
                total = skipped_from
        return total
