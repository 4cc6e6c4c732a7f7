"""Cutting encoded conversations to a window: arithmetic on their pieces, never through markup or a character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from danlu.tokens.characters import TokenBytes
from danlu.tokens.encode import Encoded, Kind, Role

Overlong = Literal["drop", "head", "tail"]
OldestTurns = Literal["leave_out", "windows"]

TURNS_LEFT_OUT = "oldest turns left out"
IN_WINDOWS = "turns in several windows"
PROMPT_CUT = "prompt cut"
ANSWER_CUT = "answer cut, its stop token not trained"
TOO_LONG = "dropped: a single turn is longer than the window"
NO_ROOM = "dropped: the window has no room for markup, system prompt and answer"


class Run(NamedTuple):
    """Tokens start to end of a piece that are kept; their weights are as they were, or 0 unless `trained`."""

    piece: int
    start: int
    end: int
    trained: bool = True


class Cut(NamedTuple):
    """What is left, nothing when it was dropped, and the gravest thing that was done to it."""

    documents: list[Encoded]
    reason: str | None


def cut(
    documents: Sequence[Encoded],
    length: int,
    overlong: Overlong,
    answer_budget: int,
    token_bytes: TokenBytes,
    oldest_turns: OldestTurns = "leave_out",
) -> Cut:
    """Fit a conversation, or the two sides of a preference, which stay alike in their prompt, into `length` tokens.

    The oldest turns go first, whole; what stands before the first user's words stays. If one turn is still too long
    it is dropped, or with `overlong` "head" or "tail" that end of its prompt's content is kept, so that the answer has
    `answer_budget` tokens (less if it is shorter). An answer that is still too long is cut at its end; its stop token
    stays with weight 0, for a cut answer must not teach to stop, and what followed goes.

    With `oldest_turns` "windows" the turns that go from a conversation make windows of their own, cut likewise, so that
    every answer is in one of them and each ends after an answer.
    """
    if oldest_turns == "windows" and len(documents) == 1 and len(documents[0]) > length:
        return _windows(documents[0], length, overlong, answer_budget, token_bytes)
    views = [View(document, token_bytes) for document in documents]
    if all(view.needed <= length for view in views):
        return Cut([view.ended(length) if len(view) > length else view.encoded for view in views], None)
    oldest = _turns_to_leave(views, length)
    for view in views:
        view.leave(oldest)
    if all(view.needed <= length for view in views):
        return Cut([view.ended(length) for view in views], TURNS_LEFT_OUT)
    if overlong == "drop":
        return Cut([], TOO_LONG)
    return _fitted(views, length, overlong, answer_budget)


class View:
    """The pieces of one Encoded that are still in, and what can be taken of them."""

    def __init__(self, encoded: Encoded, token_bytes: TokenBytes) -> None:
        self.encoded, self._bytes = encoded, token_bytes
        self.starts, self.ends = encoded.piece_starts.tolist(), encoded.piece_ends.tolist()
        self.kinds, self.roles, self.turns = encoded.piece_kinds, encoded.piece_roles, encoded.piece_turns
        self.trained = [bool(encoded.weights[start]) for start in self.starts]
        self.pieces = list(range(len(self.starts)))

    def __len__(self) -> int:
        return sum(self.size(piece) for piece in self.pieces)

    def size(self, piece: int) -> int:
        return self.ends[piece] - self.starts[piece]

    @property
    def last(self) -> int:
        """How many pieces there are up to the last stop token: what follows it can go unnoticed."""
        return len(self.pieces) - (self.kinds[self.pieces[-1]] == Kind.BETWEEN)

    @property
    def needed(self) -> int:
        return sum(self.size(piece) for piece in self.pieces[: self.last])

    @property
    def answer(self) -> int:
        """Where in `pieces` the first trained piece is."""
        return next((at for at, piece in enumerate(self.pieces) if self.trained[piece]), len(self.pieces))

    def leave(self, turns: int) -> None:
        """Leave out turns 1 to `turns`."""
        self.pieces = [piece for piece in self.pieces if not 1 <= self.turns[piece] <= turns]

    def keep(self, turns: int) -> None:
        """Keep turns up to `turns`, as far as anything is trained: after the last of that, no header of a later turn
        but its stop token and what follows that. Nothing is kept where nothing is trained.
        """
        kept = [piece for piece in self.pieces if self.turns[piece] <= turns]
        end = max((at + 1 for at, piece in enumerate(kept) if self.trained[piece]), default=0)
        after = takewhile(lambda piece: self.kinds[piece] in (Kind.STOP, Kind.BETWEEN), kept[end:])
        self.pieces = [*kept[:end], *after] if end else []

    def ended(self, length: int) -> Encoded:
        """The Encoded of the pieces that are in; what follows the last stop token only where it fits."""
        return self.taken(self.whole() if len(self) <= length else self.whole()[: self.last])

    def whole(self) -> list[Run]:
        return [Run(piece, self.starts[piece], self.ends[piece]) for piece in self.pieces]

    def head(self, piece: int, room: int) -> Run:
        """The most of a content's beginning that has room."""
        allowed = self._allowed(piece)
        return Run(piece, self.starts[piece], self.starts[piece] + int(allowed[allowed <= room].max(initial=0)))

    def tail(self, piece: int, room: int) -> Run:
        """The most of a content's end that has room."""
        allowed = self._allowed(piece)
        return Run(piece, self.starts[piece] + int(allowed[allowed >= self.size(piece) - room].min()), self.ends[piece])

    def _allowed(self, piece: int) -> NDArray[np.intp]:
        return np.flatnonzero(self._bytes.boundaries(self.encoded.tokens[self.starts[piece] : self.ends[piece]]))

    def taken(self, runs: Sequence[Run]) -> Encoded:
        """The Encoded of these runs; runs without tokens are left out."""
        runs = [run for run in runs if run.end > run.start]
        picked = np.concatenate([np.arange(run.start, run.end) for run in runs])
        sizes = [run.end - run.start for run in runs]
        pieces = [run.piece for run in runs]
        tokens = self.encoded.tokens[picked]
        weights = self.encoded.weights[picked] * np.repeat(np.array([run.trained for run in runs], np.float32), sizes)
        content = np.repeat(self.kinds[pieces] == Kind.CONTENT, sizes) & (weights != 0)
        return Encoded(
            tokens=tokens,
            weights=weights,
            piece_starts=np.cumsum([0, *sizes[:-1]]).astype(np.int32),
            piece_kinds=self.kinds[pieces],
            piece_roles=self.roles[pieces],
            piece_turns=self.turns[pieces],
            text_bytes=int(self._bytes.lengths[tokens[content]].sum()),
        )


def _windows(document: Encoded, length: int, overlong: Overlong, answer_budget: int, token_bytes: TokenBytes) -> Cut:
    """The newest turns that fit, then those before them, down to the first; in their order."""
    found, reasons, rest = list[Encoded](), list[str | None](), document
    while True:
        view = View(rest, token_bytes)
        oldest = 0 if view.needed <= length else _turns_to_leave([view], length)
        one = cut([rest], length, overlong, answer_budget, token_bytes)
        found, reasons = [*one.documents, *found], [*reasons, one.reason]
        if not oldest:
            break
        view.keep(oldest)
        if not view.pieces:
            break
        rest = view.taken(view.whole())
    if len(found) < 2:
        return Cut(found, next(filter(None, reasons), None))
    gravest = [reason for reason in reasons if reason not in (None, TURNS_LEFT_OUT)]
    return Cut(found, gravest[0] if gravest else IN_WINDOWS)


def _turns_to_leave(views: Sequence[View], length: int) -> int:
    """How many of the oldest turns must go; the last turn stays, and every turn that one side of a pair answers."""
    last = min(int(view.turns[-1]) for view in views)
    if len(views) > 1:
        last = min(int(view.turns[view.answer]) for view in views)
    for oldest in range(1, last):
        if all(view.needed - _tokens_of(view, oldest) <= length for view in views):
            return oldest
    return max(last - 1, 0)


def _tokens_of(view: View, turns: int) -> int:
    return sum(view.size(piece) for piece in view.pieces if 1 <= view.turns[piece] <= turns)


def _fitted(views: Sequence[View], length: int, overlong: Overlong, answer_budget: int) -> Cut:
    """The single turn that is left, with content cut from its prompt, then from the end of its answer."""
    answers = [sum(view.size(piece) for piece in view.pieces[view.answer : view.last]) for view in views]
    prompts = [_prompt(view, length - min(max(answers), answer_budget), overlong) for view in views]
    documents, reason = [], PROMPT_CUT
    for view, prompt, answer in zip(views, prompts, answers, strict=True):
        if prompt is None:
            return Cut([], NO_ROOM)
        room = length - sum(run.end - run.start for run in prompt)
        runs = _answer(view, room) if answer > room else view.whole()[view.answer : view.last]
        if not any(run.trained and view.trained[run.piece] for run in runs):
            return Cut([], NO_ROOM)
        reason = ANSWER_CUT if answer > room else reason
        documents.append(view.taken([*prompt, *runs]))
    return Cut(documents, reason)


def _prompt(view: View, room: int, overlong: Overlong) -> list[Run] | None:
    """The prompt in at most `room` tokens: its markup and system content whole, the rest from one end."""
    runs = view.whole()[: view.answer]
    cuttable = [
        at
        for at, run in enumerate(runs)
        if view.kinds[run.piece] == Kind.CONTENT and view.roles[run.piece] != Role.SYSTEM
    ]
    room -= sum(run.end - run.start for at, run in enumerate(runs) if at not in cuttable)
    if room < bool(cuttable):
        return None
    for at in cuttable if overlong == "head" else reversed(cuttable):
        piece = runs[at].piece
        if view.size(piece) > room:
            runs[at] = view.head(piece, room) if overlong == "head" else view.tail(piece, room)
            room = 0
        room -= runs[at].end - runs[at].start
        room = max(room, 0)
    return runs


def _answer(view: View, room: int) -> list[Run]:
    """As many whole answers as there is room for, the next one cut if some of it fits before its stop token."""
    runs = view.whole()[view.answer : view.last]
    kept: list[Run] = []
    complete = 0
    for at, run in enumerate(runs):
        size, kind = run.end - run.start, view.kinds[run.piece]
        if kind == Kind.CONTENT and view.trained[run.piece]:
            stop = runs[at + 1]
            if size + stop.end - stop.start > room:
                part = view.head(run.piece, room - (stop.end - stop.start))
                return [*kept, part, stop._replace(trained=False)] if part.end > part.start else kept[:complete]
        elif size > room:
            return kept[:complete]
        kept.append(run)
        room -= size
        complete = len(kept) if kind == Kind.STOP and view.trained[run.piece] else complete
    return kept
