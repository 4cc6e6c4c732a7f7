"""Prompts out of held-out conversations, with the answers that the data give to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from danlu.evaluate.side_by_side import Asked
from danlu.ledger.errors import UserError
from danlu.text.records import Message
from danlu.tokens.encode import Encoded, Kind, Role
from danlu.tokens.shards import TokenSet
from danlu.tokens.tokenizer import Tokenizer

_ROLES = {Role.SYSTEM: "system", Role.USER: "user", Role.ASSISTANT: "assistant", Role.TOOL: "tool"}


def held_out_prompts(sets: Sequence[TokenSet], count: int, tokenizer: Tokenizer) -> list[Asked]:
    """The openings of `count` conversations, an even share of each set, evenly spaced in it.

    An opening is all up to the first answer; a conversation that has none, or begins with it, is passed over. Fewer
    come where there are fewer. Raises UserError where there are none at all.
    """
    found: list[Asked] = []
    for number, token_set in enumerate(sets):
        share = (count - len(found)) // (len(sets) - number)
        openings = (opening for at in _spaced(len(token_set), share) if (opening := _opening(token_set, at, tokenizer)))
        found += [opening for _, opening in zip(range(share), openings, strict=False)]
    if not found:
        raise UserError(
            "nothing held out here is a conversation, so there are no prompts to take from it",
            do="name packed conversations in evaluate.held_out, raise sft.data.held_out, or leave held_out_prompts out",
        )
    return found


def _spaced(size: int, share: int) -> Iterator[int]:
    """Every number below `size`: `share` evenly spaced ones first, then their neighbours."""
    step = max(size // max(share, 1), 1)
    return (number for start in range(step) for number in range(start, size, step))


def _opening(token_set: TokenSet, number: int, tokenizer: Tokenizer) -> Asked | None:
    example = token_set.example(number)
    messages = list[Message]()
    for role, text in _contents(example.documents[0], tokenizer):
        if role == Role.ASSISTANT:
            asked = [message["content"] for message in messages if message["role"] == "user"]
            return Asked(asked[-1], messages, text, token_set.name) if asked else None
        messages.append({"role": _ROLES[role], "content": text})
    return None


def _contents(document: Encoded, tokenizer: Tokenizer) -> Iterator[tuple[Role, str]]:
    """Who says what, in order; a content may lie in several pieces."""
    pieces = zip(document.piece_starts, document.piece_ends, document.piece_kinds, document.piece_roles, strict=True)
    for (role, kind), run in groupby(pieces, key=lambda piece: (Role(piece[3]), Kind(piece[2]))):
        if kind == Kind.CONTENT:
            ids = [token for start, end, _, _ in run for token in document.tokens[start:end].tolist()]
            yield role, tokenizer.decode(ids)
