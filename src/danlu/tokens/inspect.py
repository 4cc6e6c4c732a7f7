"""What a training run will see of its token sets: what is in the loss, what is cut, what looks wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from danlu.ledger.errors import UserError
from danlu.tokens.cut import OldestTurns, Overlong, cut
from danlu.tokens.encode import Encoded, Kind, Role
from danlu.tokens.settings import LossLimits
from danlu.tokens.shards import Example
from danlu.tokens.tokenizer import Tokenizer

BINS = tuple(1 << power for power in range(4, 21))


@dataclass
class Part:
    """Tokens of one role or source, as they are after cutting."""

    tokens: int = 0
    in_loss: int = 0
    rows: int = 0

    @property
    def share(self) -> float:
        """Share of its tokens that are in the loss."""
        return self.in_loss / self.tokens if self.tokens else 0.0


@dataclass
class Inspection:
    """Counts over all rows; a pair is two rows. `lengths` counts rows before cutting by the bin they fit in."""

    rows: int = 0
    roles: dict[str, Part] = field(default_factory=dict)
    sources: dict[str, Part] = field(default_factory=dict)
    rows_without_loss: int = 0
    rows_dropped: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    answers_lost: int = 0
    stops_untrained: int = 0
    rows_with_special_tokens: int = 0
    rows_with_special_text: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    longest: int = 0

    @property
    def whole(self) -> Part:
        """All tokens together."""
        parts = self.sources.values()
        return Part(sum(part.tokens for part in parts), sum(part.in_loss for part in parts), self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, JSON-ready: shares are of all rows or of all answers before cutting."""
        whole = self.whole
        return {
            "rows": self.rows,
            "tokens": whole.tokens,
            "in_loss": whole.in_loss,
            "loss_share": whole.share,
            "roles": {name: _numbers(part) for name, part in sorted(self.roles.items())},
            "sources": {name: {"rows": part.rows, **_numbers(part)} for name, part in sorted(self.sources.items())},
            "rows_without_loss": self.rows_without_loss,
            "rows_dropped": self.rows_dropped,
            "cuts": dict(self.cuts.most_common()),
            "answers": self.answers,
            "answers_lost": self.answers_lost,
            "stops_untrained": self.stops_untrained,
            "rows_with_special_tokens": self.rows_with_special_tokens,
            "rows_with_special_text": self.rows_with_special_text,
            "lengths": {str(size): self.lengths[size] for size in sorted(self.lengths)},
            "longest": self.longest,
        }

    def refuse(self, limits: LossLimits) -> None:
        """Raise UserError, naming every limit that is passed, when training on this would be a mistake."""
        rows, answers = max(self.rows, 1), max(self.answers, 1)
        checks = [
            ("rows without a token in the loss", self.rows_without_loss / rows, "max_rows_without_loss"),
            ("rows dropped by cutting", self.rows_dropped / rows, "max_rows_dropped"),
            ("answers lost by cutting", self.answers_lost / answers, "max_turns_lost"),
            ("answers whose stop token is not trained", self.stops_untrained / answers, "max_stop_untrained"),
            ("rows with special tokens inside content", self.rows_with_special_tokens / rows, "max_markup_in_content"),
        ]
        passed = [
            f"{what}: {share:.2%}, `{name}` allows {getattr(limits, name):.2%}"
            for what, share, name in checks
            if share > getattr(limits, name)
        ]
        if self.whole.share < limits.min_loss_share:
            passed.append(
                f"tokens in the loss: {self.whole.share:.2%}, `min_loss_share` asks {limits.min_loss_share:.2%}"
            )
        if passed:
            raise UserError(
                "the data is outside the limits of this run: " + "; ".join(passed),
                do="look at single rows with `danlu inspect`, mend the data, or change `limits`",
            )

    def table(self) -> Table:
        """The numbers for a terminal."""
        table = Table("what", "rows", "tokens", "in the loss", "share")
        whole = self.whole
        for group in (self.sources, self.roles, {"all": whole}):
            for name, part in sorted(group.items()):
                rows = f"{part.rows:,}" if group is not self.roles else ""
                table.add_row(name, rows, f"{part.tokens:,}", f"{part.in_loss:,}", f"{part.share:.1%}")
            table.add_section()
        told = {
            "no token in the loss": self.rows_without_loss,
            "special tokens inside content": self.rows_with_special_tokens,
            "special-token text in content, kept as text": self.rows_with_special_text,
            **self.cuts,
            f"answers lost by cutting (of {self.answers:,})": self.answers_lost,
            "answers whose stop token is not trained": self.stops_untrained,
        }
        for name, count in told.items():
            table.add_row(name, f"{count:,}", "", "", f"{count / max(self.rows, 1):.1%}")
        table.add_section()
        for size in sorted(self.lengths):
            share = f"{self.lengths[size] / max(self.rows, 1):.1%}"
            table.add_row(f"up to {size:,} tokens", f"{self.lengths[size]:,}", "", "", share)
        return table


def inspect_examples(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    length: int,
    overlong: Overlong,
    answer_budget: int,
    oldest_turns: OldestTurns = "leave_out",
) -> Inspection:
    """Count over examples as training would cut them; documents without pieces are never cut (windows cut them)."""
    found = Inspection()
    special = np.fromiter(sorted(tokenizer.special_ids), dtype=np.uint32)
    texts = re.compile("|".join(map(re.escape, tokenizer.special)) or "(?!)")
    for example in examples:
        in_pieces = all(len(document.piece_starts) for document in example.documents)
        kept, reason = example.documents, None
        if in_pieces:
            kept, reason = cut(example.documents, length, overlong, answer_budget, tokenizer.token_bytes, oldest_turns)
        found.cuts.update([reason] if reason else [])
        found.rows_dropped += 0 if kept else len(example.documents)
        for document in example.documents:
            _count_whole(found, document, example.source)
            content = document.tokens[_content(document)]
            found.rows_with_special_tokens += bool(np.isin(content, special).any())
            found.rows_with_special_text += texts.search(tokenizer.decode(content.tolist())) is not None
        for document in kept:
            _count_kept(found, document, example.source)
        if in_pieces:
            found.answers_lost += sum(map(_answers, example.documents)) - sum(map(_answers, kept))
    return found


def _count_whole(found: Inspection, document: Encoded, source: str) -> None:
    found.rows += 1
    found.sources.setdefault(source, Part()).rows += 1
    found.rows_without_loss += not document.weights.any()
    found.answers += _answers(document)
    found.lengths[next((size for size in BINS if len(document) <= size), len(document))] += 1
    found.longest = max(found.longest, len(document))


def _count_kept(found: Inspection, document: Encoded, source: str) -> None:
    in_loss = document.weights != 0
    part = found.sources[source]
    part.tokens += len(document)
    part.in_loss += int(in_loss.sum())
    found.stops_untrained += _untrained_stops(document)
    for role, tokens, trained in zip(Role, *_by_role(document, in_loss), strict=True):
        if tokens:
            part = found.roles.setdefault(role.name.lower(), Part())
            part.tokens += int(tokens)
            part.in_loss += int(trained)


def _by_role(document: Encoded, in_loss: np.ndarray) -> Iterator[np.ndarray]:
    sizes = document.piece_ends - document.piece_starts
    roles = np.repeat(document.piece_roles, sizes) if len(sizes) else np.zeros(len(document), np.uint8)
    yield np.bincount(roles, minlength=len(Role))
    yield np.bincount(roles[in_loss], minlength=len(Role))


def _content(document: Encoded) -> np.ndarray:
    """bool [n]: the tokens of content; all but the last of a document without pieces."""
    if not len(document.piece_starts):
        return np.arange(len(document)) < len(document) - 1
    return np.repeat(document.piece_kinds == Kind.CONTENT, document.piece_ends - document.piece_starts)


def _answers(document: Encoded) -> int:
    """Trained answers: stop tokens of which, or of whose content, something is in the loss."""
    return sum(1 for _ in _trained_stops(document))


def _untrained_stops(document: Encoded) -> int:
    return sum(not weight for weight in _trained_stops(document))


def _trained_stops(document: Encoded) -> Iterator[float]:
    """The weight of each trained answer's stop token."""
    starts = document.piece_starts
    for piece in np.flatnonzero(document.piece_kinds == Kind.STOP):
        weight = float(document.weights[starts[piece]])
        before = piece and document.piece_kinds[piece - 1] == Kind.CONTENT and document.weights[starts[piece - 1]]
        if weight or before:
            yield weight


def _numbers(part: Part) -> dict[str, Any]:
    return {"tokens": part.tokens, "in_loss": part.in_loss, "share": part.share}
