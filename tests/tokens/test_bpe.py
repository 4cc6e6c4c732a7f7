"""Trained byte-level BPE: any vocabulary size, the same every time, the same in transformers, lossless."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.ledger.errors import UserError
from danlu.text.records import Conversation
from danlu.tokens.encode import terminator_id
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.train import train_tokenizer

WORDS = [
    "李白是唐代诗人",
    "绿豆糕怎么做",
    "北京的天气很好",
    "the quick brown fox",
    "jumps over",
    "lazy dogs",
    "12,345",
    "😀",
]


def corpus(rows: int = 400) -> Iterator[str]:
    for number in range(rows):
        picked = [WORDS[(number * step) % len(WORDS)] for step in (1, 3, 5)]
        yield "，".join(picked) + f"。{number * 7919}\n\n" + " ".join(reversed(picked))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("bpe") / "tokenizer"
    return train_tokenizer(TokenizerTrainSettings(vocab_size=340, reserved=4, multiple_of=64), corpus(), out)


def test_size_and_special_tokens(trained: Tokenizer) -> None:
    assert trained.vocab_size == 384
    assert list(trained.special)[:4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|reserved_0|>"]
    assert len(trained.special) == 3 + 4 + 44
    assert (trained.eos_id, trained.pad_id) == (2, 0)
    assert terminator_id(trained) == Template(trained).stop_ids[0]


def test_digits_stand_alone(trained: Tokenizer) -> None:
    ids = trained.encode("2026年12,345")
    digits = [trained.decode([id]) for id in ids if any(letter.isdigit() for letter in trained.decode([id]))]
    assert digits == list("202612345")


@settings(deadline=None, max_examples=100)
@given(text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("李白诗人，。 fox123\n"))))
def test_every_text_comes_back_as_nfc(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text), skip_special=False) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("model_type", [None, "qwen2", "qwen3", "llama", "mistral"])
def test_transformers_gives_the_same_ids_in_every_model_folder(
    trained: Tokenizer, tmp_path: Path, model_type: str | None
) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    opened = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*corpus(5), "李白是唐代诗人" * 5, "e\u0301 <|im_end|>\n\n  x", "don't 1234567890", "🇨🇳👍🏽"]
    for text in texts:
        assert opened.encode(text, add_special_tokens=False) == trained.encode_markup(text)
    messages = [{"role": "user", "content": "绿豆糕?"}, {"role": "assistant", "content": "好。"}]
    (encoded,) = Template(trained).encode(Conversation(messages))
    assert opened.apply_chat_template(messages, return_dict=False) == encoded.tokens.tolist()


def test_the_same_text_gives_the_same_tokenizer_in_another_process(trained: Tokenizer, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('corpus', {str(Path(__file__))!r})\n"
        "from danlu.tokens.train import train_tokenizer\n"
        "from danlu.tokens.settings import TokenizerTrainSettings as S\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        f"out = Path({str(tmp_path / 'out')!r})\n"
        "print(train_tokenizer(S(vocab_size=340, reserved=4, multiple_of=64), module.corpus(), out).fingerprint)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == trained.fingerprint
    assert Tokenizer.load(tmp_path / "out").fingerprint == trained.fingerprint


def test_too_little_text_says_what_was_reached(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gave only \d+ of 5,000 tokens") as raised:
        train_tokenizer(TokenizerTrainSettings(vocab_size=5000), corpus(20), tmp_path / "t")
    assert "set tokenizer.train.vocab_size to" in str(raised.value) and "give more text" in str(raised.value)
    with pytest.raises(UserError, match=r"gave only 275 of 300") as raised:
        train_tokenizer(TokenizerTrainSettings(vocab_size=300, max_bytes=10), corpus(20), tmp_path / "t")
    assert str(raised.value).endswith("→ raise tokenizer.train.max_bytes (now 10), or lower min_frequency"), (
        "300 is least"
    )
    assert not (tmp_path / "t").exists()
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(TokenizerTrainSettings(), iter([]), tmp_path / "t")


def test_no_more_text_is_read_than_the_cap(tmp_path: Path) -> None:
    texts = corpus(10_000)
    train_tokenizer(TokenizerTrainSettings(vocab_size=300, max_bytes=20_000), texts, tmp_path / "t")
    assert sum(1 for _ in texts) > 9_700
