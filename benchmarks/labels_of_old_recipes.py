"""Which tokens carry loss, by role: under danlu's recipe and three old ones.

    python benchmarks/labels_of_old_recipes.py [DATA] [JSON]

Real rows: MOSS dialogues (Firefly's data) and alpaca_zh (single questions, in the place of BELLE's). One tokenizer,
Qwen2.5's, so that tokens compare; each recipe with its own text and cut, at its published lengths. The three old rules
are written down here from their projects' code at the commits that docs/log.md names:

- Firefly (component/dataset.py): question and header, then answer, stop token and line end, all answers in the loss;
  the whole row cut at the right to 1,024.
- LLaMA-Efficient-Tuning (src/utils/common.py, July 2023): each question cut to 256 tokens, each answer to 511, an end
  token in the loss behind every answer, cut or not; turns beyond 768 left out.
- baichuan_sft_lora (sft_lora.py): `Human: …\\n\\nAssistant: …` cut at 1,024, its last token overwritten by the end
  token, and all of it in the loss.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from rich.console import Console
from rich.table import Table

from danlu.text.records import Conversation
from danlu.tokens.cut import ANSWER_CUT, OldestTurns, cut
from danlu.tokens.encode import Kind, Role
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.turns import limited

LENGTH, SOURCE, TARGET, ROWS = 1024, 256, 512, 4000
MARKUP, QUESTION, ANSWER, STOP = "markup", "question", "answer", "stop token"
ROLES = (MARKUP, QUESTION, ANSWER, STOP)
Part = tuple[list[int], str, bool]
"""Tokens, whose they are, whether they are in the loss."""


@dataclass
class Counts:
    """Sums over rows."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    trained: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    answers: int = 0
    answers_there: int = 0
    taught_to_stop_early: int = 0
    rows_without_loss: int = 0

    def add(self, parts: list[Part], answers: int, early: int) -> None:
        for tokens, role, trained in parts:
            self.tokens[role] += len(tokens)
            self.trained[role] += len(tokens) * trained
        self.answers += answers
        self.answers_there += sum(role == ANSWER and bool(tokens) for tokens, role, _ in parts)
        self.taught_to_stop_early += early
        self.rows_without_loss += not any(trained and tokens for tokens, _, trained in parts)


def clipped(parts: list[Part], length: int) -> list[Part]:
    """The first `length` tokens."""
    kept = []
    for tokens, role, trained in parts:
        kept.append((tokens[:length], role, trained))
        length = max(0, length - len(tokens))
    return kept


class Recipes:
    """Each method gives the parts of a row, and how many cut answers end in a trained stop token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.template = tokenizer, Template(tokenizer, "none")
        self.end = tokenizer.encode_markup("<|im_end|>")

    def danlu(
        self,
        turns: list[tuple[str, str]],
        source: int | None = None,
        target: int | None = None,
        oldest_turns: OldestTurns = "leave_out",
    ) -> Any:
        messages: Any = [
            {"role": role, "content": said}
            for turn in turns
            for role, said in zip(("user", "assistant"), turn, strict=True)
        ]
        (whole,) = self.template.encode(Conversation(messages))
        whole, _ = limited(whole, source, target, self.tokenizer.token_bytes)
        kept, reason = cut([whole], LENGTH, "tail", LENGTH // 2, self.tokenizer.token_bytes, oldest_turns)
        parts: list[Part] = []
        for row in kept:
            for start, end, kind, role in zip(
                row.piece_starts, row.piece_ends, row.piece_kinds, row.piece_roles, strict=True
            ):
                name = MARKUP
                if kind == Kind.CONTENT:
                    name = ANSWER if role == Role.ASSISTANT else QUESTION
                elif kind == Kind.STOP and role == Role.ASSISTANT:
                    name = STOP
                parts.append((row.tokens[start:end].tolist(), name, bool(row.weights[start:end].any())))
        cut_and_stopped = reason == ANSWER_CUT and any(trained for _, name, trained in parts[-1:] if name == STOP)
        return parts, int(cut_and_stopped)

    def danlu_limited(self, turns: list[tuple[str, str]]) -> Any:
        return self.danlu(turns, SOURCE, TARGET)

    def danlu_windows(self, turns: list[tuple[str, str]]) -> Any:
        return self.danlu(turns, oldest_turns="windows")

    def firefly(self, turns: list[tuple[str, str]]) -> Any:
        encode, markup = self.tokenizer.encode, self.tokenizer.encode_markup
        parts: list[Part] = []
        for asked, said in turns:
            parts += [
                (markup("<|im_start|>user\n"), MARKUP, False),
                (encode(asked.strip()), QUESTION, False),
                (markup("<|im_end|>\n<|im_start|>assistant\n"), MARKUP, False),
                (encode(said.strip()), ANSWER, True),
                (self.end, STOP, True),
                (encode("\n"), MARKUP, True),
            ]
        return clipped(parts, LENGTH), 0

    def efficient_tuning(self, turns: list[tuple[str, str]]) -> Any:
        encode, parts, taken, early = self.tokenizer.encode, list[Part](), 0, 0
        for number, (asked, said) in enumerate(turns):
            before, after = encode("\n" * bool(number) + "Human: "), encode("\nAssistant: ")
            question, answer = encode(asked), encode(said)
            source = clipped([(before, MARKUP, False), (question, QUESTION, False), (after, MARKUP, False)], SOURCE)
            size = sum(len(tokens) for tokens, _, _ in source) + len(answer[: TARGET - 1]) + 1
            if taken + size > SOURCE + TARGET:
                break
            taken += size
            early += len(answer) > TARGET - 1
            parts += [*source, (answer[: TARGET - 1], ANSWER, True), (self.end, STOP, True)]
        return parts, early

    def baichuan_sft_lora(self, turns: list[tuple[str, str]]) -> Any:
        encode = self.tokenizer.encode
        ((asked, said),) = turns
        parts: list[Part] = [
            (encode("Human: "), MARKUP, True),
            (encode(asked), QUESTION, True),
            (encode("\n\nAssistant: "), MARKUP, True),
            (encode(said), ANSWER, True),
            (self.end, STOP, True),
        ]
        whole = sum(len(tokens) for tokens, _, _ in parts)
        if whole <= LENGTH:
            return parts, 0
        return [*clipped(parts[:-1], LENGTH - 1), (self.end, STOP, True)], 1


def rows(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Questions with their answers, of rows that hold nothing else."""
    with path.open("rb") as raw:
        stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), "utf-8")
        for _, line in zip(range(ROWS), stream, strict=False):
            said = [one for one in json.loads(line)["messages"] if one["role"] != "system"]
            asked, answered = said[::2], said[1::2]
            if {one["role"] for one in asked} == {"user"} and {one["role"] for one in answered} == {"assistant"}:
                yield [(q["content"], a["content"]) for q, a in zip(asked, answered, strict=True)]


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DANLU_DATA", "../shared/data"))
    recipes = Recipes(Tokenizer.load(data / "tokenizers" / "qwen2.5"))
    results: dict[str, dict[str, Any]] = {}
    for name in ("moss_chat", "alpaca_zh"):
        turns = list(rows(data / "sft" / f"{name}.jsonl.zst"))
        ways: dict[str, Callable[[list[tuple[str, str]]], Any]] = {
            "danlu": recipes.danlu,
            "danlu, oldest_turns: windows": recipes.danlu_windows,
            f"danlu, {SOURCE} + {TARGET}": recipes.danlu_limited,
            "Firefly": recipes.firefly,
            "LLaMA-Efficient-Tuning": recipes.efficient_tuning,
        }
        if all(len(row) == 1 for row in turns):
            ways["baichuan_sft_lora"] = recipes.baichuan_sft_lora
        table = Table(title=f"{name}: {len(turns):,} rows, {sum(map(len, turns)):,} answers", title_justify="left")
        for column in ("recipe", *(f"{role} in the loss" for role in ROLES), "answers there", "early stops", "no loss"):
            table.add_column(column, justify="left" if column == "recipe" else "right")
        for way, made in ways.items():
            counts = Counts()
            for row in turns:
                counts.add(*_counted(made(row), row))
            results.setdefault(name, {})[way] = vars(counts)
            shares = [f"{counts.trained[r] / max(counts.tokens[r], 1):.1%} of {counts.tokens[r]:,}" for r in ROLES]
            there = f"{counts.answers_there / counts.answers:.1%}"
            table.add_row(way, *shares, there, f"{counts.taught_to_stop_early:,}", f"{counts.rows_without_loss:,}")
        Console(width=170).print(table)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(results, indent=1), "utf-8")


def _counted(made: Any, row: list[tuple[str, str]]) -> tuple[list[Part], int, int]:
    parts, early = made
    return parts, len(row), early


if __name__ == "__main__":
    main()
