"""Streams of text: whole characters only, and nothing of a stop string, whichever way the text is cut into tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from danlu.infer.text import TextStream
from danlu.tokens.characters import byte_alphabet
from danlu.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a byte (the id is its value), and 256 as the end token."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=byte_alphabet(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return Tokenizer(backend, {"eos_token": "<|end|>"})


def stream(tokenizer: Tokenizer, text: str, stop: list[str]) -> tuple[list[str], bool]:
    part = TextStream(tokenizer, stop)
    pieces = [part.push(byte) for byte in text.encode()]
    return [*pieces, part.flush()], part.stopped


def cut(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first."""
    ends = sorted((text.find(one) + len(one), text.find(one)) for one in stop if one in text)
    return text[: ends[0][1]] if ends else text


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="ab。好👨‍👩‍👧\n", max_size=30),
    stop=st.lists(st.text(alphabet="ab。好👨\n", min_size=1, max_size=4), max_size=3),
)
def test_pieces_join_to_the_text_before_the_first_stop(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    pieces, stopped = stream(tokenizer, text, stop)
    assert "".join(pieces) == cut(text, stop)
    assert stopped == any(one in text for one in stop)
    assert "\ufffd" not in "".join(pieces)


def test_text_comes_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    pieces, _ = stream(tokenizer, "好a\nx\n\n", ["\n\n"])
    assert pieces[:7] == ["", "", "好", "a", "", "\nx", ""]


def test_an_incomplete_character_at_the_end_is_a_replacement_character(tokenizer: Tokenizer) -> None:
    part = TextStream(tokenizer)
    assert [part.push(byte) for byte in "好".encode()[:2]] == ["", ""]
    assert part.flush() == "\ufffd"


def test_special_tokens_and_rows_beyond_the_vocabulary_have_no_text(tokenizer: Tokenizer) -> None:
    part = TextStream(tokenizer)
    assert [part.push(token) for token in (97, 256, 300, 98)] == ["a", "", "", "b"]


def test_real_tokenizer(qwen_tokenizer: Path) -> None:
    real = Tokenizer.load(qwen_tokenizer)
    text = "你好，𠮷野家！👨‍👩‍👧 Tell me：a story…\n\n<|im_end|>"
    part = TextStream(real, ["\n\n<"])
    assert "".join(part.push(token) for token in real.encode(text)) + part.flush() == text.split("\n")[0]
