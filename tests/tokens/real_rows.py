"""The 200 real conversations of mini_qwen's SFT files, and labels made from character offsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from danlu.text.records import Conversation

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def sft_rows(data: Path) -> list[Conversation]:
    """Both files' conversations, in order."""
    files = sorted((data / "mini_qwen" / "sft").glob("*/*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file, columns=["conversations"]).to_pylist()]
    return [
        Conversation([{"role": ROLES[said["from"]], "content": said["value"]} for said in row["conversations"]])
        for row in rows
    ]


def chatml(messages: list[Any]) -> tuple[str, list[tuple[int, int]]]:
    """The conversation in ChatML, written out by hand, and the character ranges of answers with their stop token."""
    text, answers = "", []
    for number, message in enumerate(messages):
        text += ("\n" if number else "") + "<|im_start|>" + message["role"] + "\n"
        start = len(text)
        text += message["content"] + "<|im_end|>"
        if message["role"] == "assistant":
            answers.append((start, len(text)))
    return text, answers


def offset_labels(oracle: Any, messages: list[Any]) -> tuple[list[int], list[bool]]:
    """Ids of the whole text, and for each whether its characters lie inside an answer."""
    text, answers = chatml(messages)
    encoding = oracle.backend_tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, [any(begin < end <= stop for begin, stop in answers) for _, end in encoding.offsets]


def byte_labels(messages: list[Any]) -> tuple[bytes, list[bool]]:
    """The text in UTF-8, and for each byte whether it lies inside an answer."""
    text, answers = chatml(messages)
    labels: list[bool] = []
    for place, letter in enumerate(text):
        labels += [any(begin <= place < stop for begin, stop in answers)] * len(letter.encode())
    return text.encode(), labels
