"""Which tokens carry loss on mini_qwen's 200 real SFT rows: danlu, TRL's assistant_only_loss, the original's own code.

    python benchmarks/labels_against_trl.py [DATA]

Windows of 1,024 tokens, Qwen2.5 tokenizer. Prints a table, then every kind of difference to TRL with its count; a
difference that none of the named kinds explains is an error. Needs `trl` and the data folder with `mini_qwen`.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer
from trl.chat_template_utils import get_training_chat_template

from danlu.text.records import Conversation
from danlu.tokens.cut import ANSWER_CUT, cut
from danlu.tokens.encode import Encoded, Kind, Role
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

LENGTH, BUDGET, STOP, NEWLINE = 1024, 512, 151645, 198
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass
class Labels:
    """Sums over the rows."""

    answer: int = 0
    trained: int = 0
    stops: int = 0
    stops_trained: int = 0
    other: int = 0
    empty_rows: int = 0

    def add(self, tokens: np.ndarray, answer: np.ndarray, trained: np.ndarray) -> None:
        """One row: ids, which are an answer's content or stop token, which carry loss."""
        stops = answer & (tokens == STOP)
        self.answer += int(answer.sum())
        self.trained += int((answer & trained).sum())
        self.stops += int(stops.sum())
        self.stops_trained += int((stops & trained).sum())
        self.other += int((trained & ~answer).sum())
        self.empty_rows += not trained.any()


def read(data: Path) -> list[list[Any]]:
    files = sorted((data / "mini_qwen" / "sft").glob("*/*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file, columns=["conversations"]).to_pylist()]
    return [[{"role": ROLES[said["from"]], "content": said["value"]} for said in row["conversations"]] for row in rows]


def answers_by_offsets(tokenizer: Any, text: str, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a rendered text and which of them end inside an answer, from character offsets alone."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    header, spans = "<|im_start|>assistant\n", []
    while (begin := text.find(header, start)) >= 0:
        start = text.index("<|im_end|>", begin) + len("<|im_end|>")
        spans.append((begin + len(header), start))
    inside = [any(begin < end <= stop for begin, stop in spans) for _, end in encoding.offsets]
    return np.array(encoding.ids), np.array(inside)


def answer_pieces(row: Encoded, reason: str | None) -> np.ndarray:
    """The tokens of assistant content and stop tokens; not the stop token put after an answer that was cut."""
    said = np.isin(row.piece_kinds, (Kind.CONTENT, Kind.STOP)) & (row.piece_roles == Role.ASSISTANT)
    if reason == ANSWER_CUT:
        said[np.flatnonzero(said)[-1]] = False
    return np.repeat(said, row.piece_ends - row.piece_starts)


def original(tokenizer: Any, messages: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The original's collator: the last pair without history; the last line end is taken for the response header."""
    question = [message["content"] for message in messages if message["role"] == "user"][-1]
    answer = [message["content"] for message in messages if message["role"] == "assistant"][-1]
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    ids, inside = (part[:LENGTH] for part in answers_by_offsets(tokenizer, text))
    ends = np.flatnonzero(ids == NEWLINE)
    return ids, inside, np.arange(len(ids)) > (ends[-1] if len(ends) else len(ids))


def explain(ids: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Counter[str]:
    """Why labels differ on equal tokens."""
    found: Counter[str] = Counter()
    for place in np.flatnonzero(ours != theirs):
        if theirs[place] and ids[place] == NEWLINE and ids[place - 1] == STOP:
            found["TRL trains the line end after a stop token"] += 1
        elif theirs[place] and ids[place] == NEWLINE and ids[place - 2] == 151644:
            found["TRL trains the line end of the assistant's header"] += 1
        else:
            found["unexplained"] += 1
    return found


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DANLU_DATA", "../shared/data"))
    folder = data / "tokenizers" / "qwen2.5"
    hugging, tokenizer = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    training, template = get_training_chat_template(hugging), Template(tokenizer)
    sums = {name: Labels() for name in ("danlu", "TRL assistant_only_loss", "mini_qwen's own code")}
    reasons, differences = Counter[str](), Counter[str]()
    for messages in read(data):
        (whole,) = template.encode(Conversation(messages))
        kept, reason = cut([whole], LENGTH, "tail", BUDGET, tokenizer.token_bytes)
        reasons[reason or "whole"] += 1
        for row in kept:
            sums["danlu"].add(row.tokens, answer_pieces(row, reason), row.weights > 0)
        made = hugging.apply_chat_template(
            messages, chat_template=training, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, theirs = np.array(made["input_ids"]), np.array(made["assistant_masks"], dtype=bool)
        text = hugging.apply_chat_template(messages, tokenize=False)
        inside = answers_by_offsets(hugging, text)[1]
        sums["TRL assistant_only_loss"].add(ids[:LENGTH], inside[:LENGTH], theirs[:LENGTH])
        sums["mini_qwen's own code"].add(*original(hugging, messages))
        if whole.tokens.tolist() == ids.tolist():
            differences += explain(ids, whole.weights > 0, theirs)
        else:
            differences["rows where TRL's tokens join a content's first line end to the header"] += 1
    show(sums, reasons, differences)
    sys.exit("unexplained differences" if differences["unexplained"] else 0)


def show(sums: dict[str, Labels], reasons: Counter[str], differences: Counter[str]) -> None:
    table = Table(title=f"200 rows, windows of {LENGTH:,} tokens")
    for column in (
        "labels by",
        "answer tokens",
        "in the loss",
        "share",
        "stop tokens",
        "in the loss",
        "others",
        "empty",
    ):
        table.add_column(column, justify="left" if column == "labels by" else "right")
    for name, found in sums.items():
        numbers = (found.answer, found.trained, found.trained / found.answer, found.stops, found.stops_trained)
        cells = [f"{number:.1%}" if isinstance(number, float) else f"{number:,}" for number in numbers]
        table.add_row(name, *cells, f"{found.other:,}", f"{found.empty_rows:,}")
    console = Console(width=130)
    console.print(table)
    console.print("others: tokens in the loss that are no answer; empty: rows with nothing in the loss")
    for title, counts in (("How danlu cut the rows", reasons), ("Differences to TRL before cutting", differences)):
        console.print(f"\n{title}:")
        for what, count in counts.most_common():
            console.print(f"  {count:5,}  {what}")


if __name__ == "__main__":
    main()
