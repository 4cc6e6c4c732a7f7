"""Tokenizers that the tests of this room share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from danlu.tokens.jinja import CHATML
from danlu.tokens.tokenizer import Tokenizer


def warmed(tokenizer: Tokenizer) -> Tokenizer:
    """With all that is made on first use, so that copies with other templates share it."""
    tokenizer.encode_markup("a", inside=True)
    return tokenizer


@pytest.fixture(scope="session")
def qwen(qwen_tokenizer: Path) -> Tokenizer:
    return warmed(Tokenizer.load(qwen_tokenizer))


@pytest.fixture(scope="session")
def sentencepiece_like() -> Tokenizer:
    """A tokenizer in Llama 2's form: ▁ for blanks, one before every first word, bytes for unknown letters."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    backend.train_from_iterator(["the user said hello to the model , hello the model answers"] * 5, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(Backend.from_str(json.dumps(state)), config)


@pytest.fixture(scope="session")
def oracle(qwen_tokenizer: Path) -> Any:
    """Qwen2.5's tokenizer as transformers opens it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(qwen_tokenizer)


@pytest.fixture(scope="session")
def qwen_and_llama(qwen: Tokenizer) -> Tokenizer:
    """Qwen2.5's tokenizer with the markup of Llama 3 added."""
    backend = Backend.from_str(qwen.backend.to_str())
    texts = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    backend.add_special_tokens([AddedToken(text, special=True) for text in texts])
    tokenizer = Tokenizer(backend, qwen.config, qwen.chat_template)
    return warmed(tokenizer)


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of bytes and ChatML's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer(backend, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, CHATML).save(folder)
    return folder
