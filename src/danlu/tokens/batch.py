"""The one form that everything trains on: rows of documents as flat arrays of few shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

    from danlu.tokens.encode import Encoded

Array = TypeVar("Array")


@dataclass(frozen=True, slots=True)
class Batch(Generic[Array]):
    """One micro-batch of B rows of T tokens holding at most D documents; padding is documents of its own.

    Documents lie end to end in the flattened tokens, and may cross from one row into the next.

    The shapes of batches of equally many rows are the same, but for that of `targets`, which takes at most 32 lengths.
    The stream makes it of numpy arrays; `torch(device)` gives it as tensors.
    """

    tokens: Array
    """int64 [B, T]."""
    weights: Array
    """float32 [B, T]: weight of each token as a target, predicted from the token before it in the same document;
    0 at a document's start and on padding."""
    positions: Array
    """int64 [B, T]: place of each token in its document."""
    cu: Array
    """int32 [D + 1]: where documents begin in the flattened B * T tokens; unused entries repeat B * T."""
    document: Array
    """int32 [B * T]: slot of the document (an index into `cu`) that each token belongs to."""
    targets: Array
    """int64 [N]: flat indices of tokens with weight ≠ 0, padded with 1; the hidden state at index - 1 predicts one."""
    target_weights: Array
    """float32 [N]: their weights, 0 for the padding."""
    target_text: Array
    """bool [N]: which of them spell text; stop tokens and other markup do not."""
    source: Array
    """int32 [D]: which source of the stream a document is from; -1 for padding and for rows of mixed sources."""
    doc: dict[str, Array]
    """Named values [D] of documents: `index` int64, the document's number in its token set (-1: padding);
    `pair` int32, the pair's number in this micro-batch (-1: none); `chosen` int32, 1 for a chosen or good answer, 0
    for others, -1 for one that was given to another prompt; the stream's columns; and where prompts are shared `shared`
    int32, how many tokens of the document before it come before a document's own."""
    tok: dict[str, Array]
    """Named values [B, T] of tokens."""
    max_length: int
    """Longest document, rounded up to a power of two and at most T."""
    documents: int
    """Documents, padding's too; the other entries of D are empty."""
    target_count: int
    """How many of `targets` are not padding."""
    real_tokens: int
    """Tokens that are not padding."""
    text_bytes: int
    """UTF-8 bytes of text that the targets spell."""

    def torch(self, device: torch.device | str = "cpu") -> Batch[torch.Tensor]:
        """The same batch as tensors on `device`; copies to CUDA go through pinned memory and do not block."""
        import torch

        on_cuda = torch.device(device).type == "cuda"

        def tensor(array: np.ndarray) -> torch.Tensor:
            made = torch.from_numpy(array)
            return made.pin_memory().to(device, non_blocking=True) if on_cuda else made.to(device)

        return replace(
            self,
            **{  # type: ignore[return-value]  # replace() cannot say that the arrays' type changes
                field.name: _each_array(getattr(self, field.name), tensor) for field in fields(self)
            },
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A document on its way into a row: its tokens, the source it is from and its number in that token set."""

    encoded: Encoded
    source: int
    index: int
    pair: int = -1
    """Any number that both documents of a preference pair share, -1 for none."""
    chosen: int = 0
    shared: int = 0
    """How many of its first tokens are those of the document before it in the run, and are not laid out again."""

    def __len__(self) -> int:
        return len(self.encoded.tokens) - self.shared

    @property
    def tokens(self) -> np.ndarray:
        """Those that are laid out."""
        return self.encoded.tokens[self.shared :]

    @property
    def weights(self) -> np.ndarray:
        """Of `tokens`."""
        return self.encoded.weights[self.shared :]


def sharing(pair: Sequence[Placed], least: float) -> list[Placed]:
    """Both answers of a pair, the second without the tokens that both begin with before anything counts, if they are at
    least the share `least` of it. Of these it keeps the last: it predicts the answer's first token.
    """
    first, second = pair
    both = min(len(first), len(second))
    same = first.tokens[:both] == second.tokens[:both]
    asked = same & (first.weights[:both] == 0) & (second.weights[:both] == 0)
    shared = max(0, (both if asked.all() else int(asked.argmin())) - 1)
    return [first, replace(second, shared=shared if shared >= least * len(second) else 0)]


Run = Sequence[Placed]
"""Documents that lie end to end from the beginning of a row on."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is the same for all batches of equally many rows."""

    rows: int
    """B, rows of a micro-batch."""
    length: int
    """T, tokens of a row."""
    documents: int
    """Most documents for each row, padding not counted; D is rows * (documents + 1)."""
    isolate: bool = True
    """Whether documents of a run are apart; otherwise each run is one document for masks, positions and weights."""
    padding_id: int = 0
    shares: bool = False
    """Whether documents may share first tokens with the document before them."""

    @property
    def slots(self) -> int:
        """D."""
        return self.rows * ((self.documents if self.isolate else 1) + 1)

    @property
    def bucket(self) -> int:
        """The number of targets is padded to a multiple of this."""
        return max(8, -(-self.rows * self.length // 32))


def make_batch(
    runs: Sequence[Run],
    shape: Shape,
    token_bytes: np.ndarray | None = None,
    columns: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> Batch[np.ndarray]:
    """Lays out `runs`, each from the next free row on, as a Batch; what is left is padding.

    `token_bytes` [vocabulary] are the bytes of text that each token spells, 0 for markup. `columns` are further values
    of documents: {name: one array a source, by the document's number in its token set}; padding gets 0.
    """
    layout = _Layout.of(runs, shape)
    size = shape.rows * shape.length
    tokens = np.full(size, shape.padding_id, np.int64)
    weights = np.zeros(size, np.float32)
    at = 0
    for run in runs:
        for placed in run:
            tokens[at : at + len(placed)] = placed.tokens
            weights[at : at + len(placed)] = placed.weights
            at += len(placed)
        at += -at % shape.length
    used = len(layout.lengths)
    cu = np.full(shape.slots + 1, size, np.int32)
    cu[: used + 1] = np.concatenate([[0], np.cumsum(layout.lengths)])
    document = np.repeat(np.arange(used, dtype=np.int32), layout.lengths)
    weights[cu[:used]] = 0.0
    found = np.flatnonzero(weights)
    spelt = np.zeros(len(found), np.int64) if token_bytes is None else token_bytes[tokens[found]].astype(np.int64)
    targets, target_weights, target_text = _padded(found, weights[found], spelt > 0, shape.bucket)
    block = (shape.rows, shape.length)
    return Batch(
        tokens=tokens.reshape(block),
        weights=weights.reshape(block),
        positions=(np.arange(size) - cu[document] + layout.shared[document]).reshape(block),
        cu=cu,
        document=document,
        targets=targets,
        target_weights=target_weights,
        target_text=target_text,
        source=layout.source,
        doc=layout.documents(columns or {}, shape.shares),
        tok={},
        max_length=min(shape.length, 1 << (max(layout.lengths) - 1).bit_length()),
        documents=used,
        target_count=len(found),
        real_tokens=sum(len(placed) for run in runs for placed in run),
        text_bytes=int(spelt.sum()),
    )


def totals(runs: Sequence[Run], isolate: bool, token_bytes: np.ndarray) -> tuple[float, int, int]:
    """(sum of weights, bytes of text spelt, tokens) of all targets in `runs`, as their batches will have them."""
    placed = [document for run in runs for document in run]
    if not placed:
        return 0.0, 0, 0
    tokens = np.concatenate([document.tokens for document in placed])
    weights = np.concatenate([document.weights for document in placed])
    parts = [len(document) for document in placed] if isolate else [sum(map(len, run)) for run in runs if run]
    weights[np.cumsum([0, *parts[:-1]])] = 0
    spelt = token_bytes[tokens[weights != 0]].sum(dtype=np.int64)
    return float(weights.sum(dtype=np.float64)), int(spelt), len(tokens)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The document slots of a micro-batch in order, padding among them."""

    lengths: list[int]
    source: np.ndarray
    index: np.ndarray
    pair: np.ndarray
    chosen: np.ndarray
    shared: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Run], shape: Shape) -> _Layout:
        slots: list[tuple[int, int, int, int, int, int]] = []
        filled = 0
        for run in runs:
            size = sum(len(placed) for placed in run)
            if shape.isolate:
                slots += [(len(p), p.source, p.index, p.pair, p.chosen, p.shared) for p in run]
            elif run:
                sources = {placed.source for placed in run}
                slots.append((size, sources.pop() if len(sources) == 1 else -1, run[0].index, -1, 0, 0))
            if rest := -size % shape.length:
                slots.append((rest, -1, -1, -1, 0, 0))
            filled += size + rest
        slots += [(shape.length, -1, -1, -1, 0, 0)] * (shape.rows - filled // shape.length)
        if filled > shape.rows * shape.length or len(slots) > shape.slots:
            raise ValueError(f"{len(slots)} documents in {filled} tokens do not fit {shape}")
        if (longest := max(slot[0] for slot in slots)) > shape.length:
            raise ValueError(f"a document of {longest} tokens does not fit {shape}")
        empty = np.tile(np.array([0, -1, -1, -1, 0, 0]), (shape.slots - len(slots), 1))
        _, source, index, pair, chosen, shared = np.concatenate([np.array(slots), empty]).T
        numbers = {number: local for local, number in enumerate(dict.fromkeys(pair[pair >= 0].tolist()))}
        local = np.array([numbers.get(number, -1) for number in pair.tolist()], np.int32)
        lengths = [slot[0] for slot in slots]
        found = (source.astype(np.int32), index.astype(np.int64), local, chosen.astype(np.int32))
        return cls(lengths, *found, shared.astype(np.int32))

    def documents(self, columns: Mapping[str, Sequence[np.ndarray]], shares: bool) -> dict[str, np.ndarray]:
        named = {"index": self.index, "pair": self.pair, "chosen": self.chosen}
        if shares:
            named["shared"] = self.shared
        for name, of_sources in columns.items():
            values = np.zeros(len(self.source), of_sources[0].dtype)
            for number, of_source in enumerate(of_sources):
                here = self.source == number
                values[here] = of_source[self.index[here]]
            named[name] = values
        return named


def _padded(
    found: np.ndarray, weights: np.ndarray, text: np.ndarray, bucket: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    more = max(1, -(-len(found) // bucket)) * bucket - len(found)
    return np.pad(found, (0, more), constant_values=1), np.pad(weights, (0, more)), np.pad(text, (0, more))


def _each_array(value: Any, convert: Any) -> Any:
    if isinstance(value, np.ndarray):
        return convert(value)
    return {name: convert(array) for name, array in value.items()} if isinstance(value, dict) else value
