"""SentencePiece BPE, what a tokenizer learns from, and that its counts cannot overflow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.text.settings import SourceSettings
from danlu.tokens.decode import StreamDecoder
from danlu.tokens.sentencepiece import backend_of
from danlu.tokens.settings import MOST_BYTES, TokenizerSettings, TokenizerTrainSettings
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.train import train_tokenizer
from danlu.tokens.training_text import TrainingText

SETTINGS = TokenizerTrainSettings(
    kind="sentencepiece", vocab_size=350, reserved=2, multiple_of=64, symbols=["<think>", "</think>"]
)
TEXTS = [
    "今天天气很好。 Today the weather is fine, 12,345 times!\n\n    indented\tcode <think>嗯</think>",
    "e\u0301 é \u00a0\u3000\u200b 👨‍👩‍👧 𠀀 \x00\x1b <0x41> <unk> <s> <|im_end|>\r\n",
    " leading and trailing  ",
    "aaaaaaaaaaa" * 9 + " " * 13,
    "",
]


def corpus(rows: int = 300) -> Iterator[str]:
    words = ["今天天气很好", "公园里有绿豆糕", "the weather is fine", "and the walk", "    indented", "2026年"]
    for number in range(rows):
        yield "，".join(words[number * step % 6] for step in (1, 5, 7)) + f"。\n{number * 7919} " + words[number % 6]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(SETTINGS, corpus(), tmp_path_factory.mktemp("sp") / "tokenizer")


@pytest.fixture(scope="module")
def opened(trained: Tokenizer) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(trained.origin)


@pytest.fixture(scope="module")
def native(trained: Tokenizer) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(Path(trained.origin) / "tokenizer.model"))


def test_size_and_special_tokens(trained: Tokenizer) -> None:
    assert trained.vocab_size == 384
    assert list(trained.special)[:4] == ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert len(trained.special) == 4 + 2 + 34
    assert (trained.token(trained.eos_id or -1), trained.token(trained.pad_id or -1)) == ("<|im_end|>", "<|endoftext|>")
    assert not trained.adds_space
    assert [trained.token(id) for id in trained.encode("2026")] == list("2026")
    assert trained.encode("a<think>b")[1] == trained.backend.token_to_id("<think>")


@pytest.mark.parametrize("text", TEXTS)
def test_llama_tokenizer_and_sentencepiece_give_the_same_ids(
    trained: Tokenizer, opened: Any, native: Any, text: str
) -> None:
    assert type(opened).__name__ == "LlamaTokenizer"
    assert opened.encode(text, add_special_tokens=False) == trained.encode_markup(text)
    assert opened.encode(text) == trained.encode_markup(text)
    assert native.encode(text) == trained.encode(text)
    assert trained.fast.name.startswith("gigatoken")
    assert trained.fast.encode(text).tolist() == trained.encode(text)


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "mistral"])
def test_transformers_gives_the_same_ids_in_a_model_folder(trained: Tokenizer, tmp_path: Path, model_type: str) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert opened.encode(text, add_special_tokens=False) == trained.encode_markup(text)


def test_a_saved_folder_and_a_model_file_open_with_the_same_ids(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == trained.fingerprint
    model = (Path(trained.origin) / "tokenizer.model").read_bytes()
    for text in TEXTS:
        assert backend_of(model).encode(text).ids == again.encode_markup(text)


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("今天好，。 the12▁\n<>"))))
def test_every_text_comes_back_as_it_was(trained: Tokenizer, native: Any, text: str) -> None:
    """But for ▁, which is how SentencePiece writes a space."""
    ids = trained.encode(text)
    assert trained.decode(ids) == text.replace("▁", " ")
    assert b"".join(trained.token_bytes[id] for id in ids).decode() == text.replace("▁", " ")
    decoder = StreamDecoder(trained)
    assert "".join(decoder.push(id) for id in ids) + decoder.flush() == text.replace("▁", " ")
    assert trained.fast.encode(text).tolist() == ids
    assert native.encode(text) == ids


def test_the_same_text_gives_the_same_tokenizer_in_another_process(trained: Tokenizer, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('corpus', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        f"made = module.train_tokenizer(module.SETTINGS, module.corpus(), Path({str(tmp_path / 'out')!r}))\n"
        "print(made.fingerprint)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == trained.fingerprint


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x0a\xff", b"not a model", b"\x0a\x03\x0a\x01a"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        backend_of(data)


def test_too_little_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"5,056 pieces.*<= \d+\n") as raised:
        train_tokenizer(SETTINGS.model_copy(update={"vocab_size": 5000}), corpus(20), tmp_path / "t")
    assert "vocab_size" in str(raised.value)
    for texts in ([], [""]):
        with pytest.raises(UserError, match="no text"):
            train_tokenizer(SETTINGS, texts, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_symbols_are_single_tokens_of_both_kinds(tmp_path: Path) -> None:
    asked = TokenizerTrainSettings(vocab_size=320, symbols=["<tool>", "工具"], reserved=0, multiple_of=8)
    made = train_tokenizer(asked, corpus(), tmp_path / "t")
    assert made.vocab_size == 320
    assert [made.token(id) for id in made.encode("<tool>工具")] == ["<tool>", "工具"]
    assert not made.special_ids & set(made.encode("<tool>工具"))


def test_counts_cannot_overflow() -> None:
    """A pair of neighbours is seen at most once a byte, so counts of 31 bits hold for every sample that is allowed."""
    assert np.iinfo(np.int32).max == MOST_BYTES
    TokenizerTrainSettings(max_bytes=MOST_BYTES)
    with pytest.raises(pydantic.ValidationError):
        TokenizerTrainSettings(max_bytes=MOST_BYTES + 1)
    with pytest.raises(pydantic.ValidationError, match="min_frequency"):
        TokenizerTrainSettings(kind="sentencepiece", min_frequency=3)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A big and a small file of one source, each line 100 bytes of one letter."""
    for name, rows in (("big", 300), ("small", 100)):
        lines = [json.dumps({"text": name[0] * 100}) for _ in range(rows)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path / "data"


def test_every_file_gives_an_even_share(files: Path) -> None:
    text = TrainingText([SourceSettings(path=str(files))], 8000, Counts())
    taken = "".join(text)
    assert (taken.count("b"), taken.count("s")) == (6000, 2000)
    assert text.summary() == {"bytes": 8000, "sources": {"data": 8000}, "files": 2, "whole": False}
    assert "max_bytes" in text.note()


def test_all_of_the_text_is_read_where_it_is_not_too_much(files: Path) -> None:
    weighted = [
        SourceSettings(path=str(files / "big.jsonl"), limit=50),
        SourceSettings(path=str(files / "small.jsonl"), weight=3),
    ]
    text = TrainingText(weighted, 1_000_000, Counts())
    assert sum(map(len, text)) == 15_000
    assert text.summary()["sources"] == {"big": 5000, "small": 10_000}
    assert (text.whole, text.note()) == (True, "")


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
def test_the_stage_warns_of_what_it_did_not_read(
    files: Path, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from danlu.recipe.stages import tokenizer

    (files / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in corpus()))
    train = TokenizerTrainSettings(
        kind=kind, sources=[SourceSettings(path=str(files))], vocab_size=300, reserved=0, max_bytes=20_000
    )
    tokenizer(TokenizerSettings(train=train), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest["learned_from"]["whole"] is False
    assert 20_000 <= manifest["learned_from"]["bytes"] < 21_000
    assert "even share of 3 files" in capsys.readouterr().err.replace("\n", " ")
