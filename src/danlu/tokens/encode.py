"""What a text becomes: token ids, the weight of each as a target, and the pieces they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danlu.ledger.errors import UserError
from danlu.text.records import Document
from danlu.tokens.tokenizer import Tokenizer


class Kind(IntEnum):
    """What a piece is: markup before a content, the content, the token that ends it, text after that token."""

    HEADER = 0
    CONTENT = 1
    STOP = 2
    BETWEEN = 3


class Role(IntEnum):
    """Whose piece it is."""

    NONE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TOOL = 4


class Piece(NamedTuple):
    """A run of tokens of one kind. `turn` 0 is what stands before the first user's content."""

    tokens: Sequence[int]
    kind: Kind
    role: Role
    turn: int
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One sequence, uncut.

    tokens uint32 [n]; weights float32 [n], the weight of token i as a target. The pieces of a conversation, each from
    its start to the next one's (the last to n): piece_starts int32 [p], piece_kinds uint8 [p] (`Kind`), piece_roles
    uint8 [p] (`Role`), piece_turns int16 [p]; a document has none. text_bytes: UTF-8 bytes of content in the loss.
    """

    tokens: NDArray[np.uint32]
    weights: NDArray[np.float32]
    piece_starts: NDArray[np.int32]
    piece_kinds: NDArray[np.uint8]
    piece_roles: NDArray[np.uint8]
    piece_turns: NDArray[np.int16]
    text_bytes: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def piece_ends(self) -> NDArray[np.int32]:
        """int32 [p]: where each piece ends."""
        return np.append(self.piece_starts[1:], np.int32(len(self.tokens))).astype(np.int32)


def join_pieces(pieces: Sequence[Piece], byte_lengths: NDArray[np.int32]) -> Encoded:
    """One Encoded of `pieces` in order; pieces without tokens are left out.

    `byte_lengths` int32 [vocabulary]: UTF-8 bytes of each token.
    """
    kept = [piece for piece in pieces if len(piece.tokens)]
    lengths = [len(piece.tokens) for piece in kept]
    tokens = np.fromiter((token for piece in kept for token in piece.tokens), dtype=np.uint32, count=sum(lengths))
    weights = np.repeat(np.array([piece.weight for piece in kept], dtype=np.float32), lengths)
    content = np.repeat(np.array([piece.kind == Kind.CONTENT for piece in kept], dtype=bool), lengths)
    return Encoded(
        tokens=tokens,
        weights=weights,
        piece_starts=(np.cumsum([0, *lengths])[:-1]).astype(np.int32),
        piece_kinds=np.array([piece.kind for piece in kept], dtype=np.uint8),
        piece_roles=np.array([piece.role for piece in kept], dtype=np.uint8),
        piece_turns=np.array([piece.turn for piece in kept], dtype=np.int16),
        text_bytes=int(byte_lengths[tokens[content & (weights != 0)]].sum()),
    )


def terminator_id(tokenizer: Tokenizer, terminator: str | None = None) -> int:
    """The id of the token that ends a document: `terminator`, or the tokenizer's end token.

    Raises UserError when the tokenizer has no such token.
    """
    if terminator is None:
        if tokenizer.eos_id is None:
            raise UserError(
                "the tokenizer names no end token, so a document has nothing to end with",
                where=tokenizer.origin,
                do="set `tokenizer.terminator` to one of its special tokens: " + ", ".join(tokenizer.special),
            )
        return tokenizer.eos_id
    if terminator not in tokenizer.special:
        raise UserError(
            f"the document terminator {terminator!r} is not a special token of the tokenizer",
            where=tokenizer.origin,
            do="set `tokenizer.terminator` to one of " + ", ".join(tokenizer.special),
        )
    return tokenizer.special[terminator]


def encode_document(tokenizer: Tokenizer, document: Document, end: int) -> Encoded:
    """The document's text and the token `end` after it, every token with weight 1; it has no pieces."""
    tokens = np.append(tokenizer.encode_array(document.text), np.uint32(end))
    return Encoded(
        tokens=tokens,
        weights=np.ones(len(tokens), dtype=np.float32),
        piece_starts=np.zeros(0, np.int32),
        piece_kinds=np.zeros(0, np.uint8),
        piece_roles=np.zeros(0, np.uint8),
        piece_turns=np.zeros(0, np.int16),
        text_bytes=int(tokenizer.token_bytes.lengths[tokens[:-1]].sum()),
    )
