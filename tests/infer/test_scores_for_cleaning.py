"""Bits per byte, as cleaning asks for them, against transformers' own loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from danlu.infer.cleaning import bits_per_byte
from danlu.infer.model import load
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.tokens.tokenizer import Tokenizer

TEXTS = ["你好，world！", "The furnace glows. 炉火正旺，𠀀也在。", "a", "嗯" * 40, "👋 emoji and\nlines " * 6]


@pytest.fixture(scope="module")
def folder(reciting_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder that looks at all that came before."""
    tokenizer = Tokenizer.load(reciting_model)
    shape = ModelSettings(
        family="qwen3", vocab_size=tokenizer.vocab_size, hidden_size=16, layers=2, heads=2, mlp_size=32,
        max_positions=256,
    )  # fmt: skip
    decoder = Decoder.empty(shape)
    initialise(decoder, 3)
    made = tmp_path_factory.mktemp("models") / "random"
    save_decoder(decoder, made, tokenizer)
    return made


def by_transformers(folder: Path, text: str, window: int) -> float:
    """Bits per byte of all tokens after the end token; of each window only what the windows before did not score."""
    tokenizer = Tokenizer.load(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = [tokenizer.eos_id, *tokenizer.encode(text)]
    first, nats = 1, 0.0
    while first < len(ids):
        start = 0 if len(ids) <= window else max(0, first - window // 2)
        with torch.no_grad():
            logp = model(torch.tensor([ids[start : start + window]])).logits[0].log_softmax(-1)
        nats -= sum(logp[place - 1 - start, ids[place]].item() for place in range(first, min(len(ids), start + window)))
        first = start + window
    return nats / math.log(2) / len(text.encode())


@pytest.mark.parametrize("window", [256, 16])
def test_bits_per_byte_are_those_of_transformers(folder: Path, window: int) -> None:
    found = bits_per_byte(str(folder), window)(TEXTS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [by_transformers(folder, text, window) for text in TEXTS], rtol=1e-5)


def test_a_batch_is_as_one_by_one_and_empty_texts_have_none(folder: Path) -> None:
    model = load(folder)
    found = bits_per_byte(str(folder))(["", *TEXTS, ""])
    assert np.isnan(found[[0, -1]]).all()
    np.testing.assert_allclose(found[1:-1], [model.score(text).bits_per_byte for text in TEXTS], rtol=1e-6)


def test_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model here"):
        bits_per_byte(str(tmp_path))
