"""Bits per byte of documents and conversations against transformers, windows included."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from danlu.evaluate.bits_per_byte import bits_per_byte, nothing_held_out, token_sets
from danlu.infer.model import Model, load
from danlu.ledger.errors import UserError
from danlu.ledger.progress import progress
from danlu.text.records import Conversation, Document
from danlu.text.settings import SourceSettings
from danlu.tokens.encode import Encoded, encode_document
from danlu.tokens.pack import pack
from danlu.tokens.settings import DataSettings
from danlu.tokens.shards import Example, TokenSetWriter
from danlu.tokens.spelling import Spelling

LABELS = [("age=25-34", "region=四川"), ("age=65+",), ()]
TEXTS = ["李白是唐代著名的诗人，绿豆糕是一种糕点。", "The quick brown fox jumps over the lazy dog. 🍵"]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return load(tiny_folder, "cpu")


def write(folder: Path, model: Model, unit: str, documents: list[Encoded], tokenizer: str | None = None) -> Path:
    spelling = Spelling.of(model.tokenizer)
    with TokenSetWriter(folder, unit, spelling, tokenizer=tokenizer or model.tokenizer.fingerprint) as writer:
        for number, document in enumerate(documents):
            writer.add(Example([document], "test", number, LABELS[number % len(LABELS)]))
    return folder


def measured(model: Model, folder: Path, window: int = 512) -> dict[str, object]:
    with progress("test") as bar:
        return bits_per_byte(model, token_sets(folder), None, window, bar)


def logps(folder: Path, tokens: list[int]) -> np.ndarray:
    """log p of tokens 1.. given those before, by transformers."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = network(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    return logits.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].numpy()


def test_documents_by_language(model: Model, tiny_folder: Path, tmp_path: Path) -> None:
    end = model.tokenizer.eos_id
    assert end is not None
    documents = [encode_document(model.tokenizer, Document(text), end) for text in TEXTS]
    result = measured(model, write(tmp_path / "held_out" / "books", model, "document", documents).parent)
    nats = sizes = 0.0
    tokens = [document.tokens.tolist() for document in documents]
    for text, ids in zip(TEXTS, tokens, strict=True):
        own = -logps(tiny_folder, ids)[:-1].sum()  # the end token spells nothing
        size = len(text.encode()) - len(model.tokenizer.decode(ids[:1]).encode()) if text[0] == "T" else None
        if size is not None:
            assert result["language"]["en"]["bits_per_byte"] == pytest.approx(own / math.log(2) / size, rel=1e-5)  # type: ignore[index]  # plain values
        nats += own
        sizes += len(text.encode()) - int(model.tokenizer.token_bytes.lengths[ids[0]])
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / sizes, rel=1e-5)
    assert result["tokens"] == sum(len(ids) - 1 for ids in tokens)
    whole = -sum(logps(tiny_folder, ids).sum() for ids in tokens)
    assert result["perplexity"] == pytest.approx(math.exp(whole / sum(len(ids) - 1 for ids in tokens)), rel=1e-5)
    assert result["source"].keys() == {"books"}  # type: ignore[attr-defined]  # plain values
    by_tag: dict[str, Any] = result["tag"]  # type: ignore[assignment]  # plain values
    assert {tag: one["documents"] for tag, one in by_tag.items()} == {"age=25-34": 1, "age=65+": 1, "region=四川": 1}
    assert by_tag["age=25-34"]["bytes"] + by_tag["age=65+"]["bytes"] == result["bytes"]


def test_only_the_answers_of_conversations_count(model: Model, tiny_folder: Path, tmp_path: Path) -> None:
    assert model.template is not None
    messages = [{"role": "user", "content": TEXTS[1]}, {"role": "assistant", "content": "绿豆糕。"}]
    encoded = model.template.encode(Conversation([*messages, *messages]))[0]  # type: ignore[list-item]  # plain messages
    result = measured(model, write(tmp_path / "chat", model, "conversation", [encoded]))
    assert result["bytes"] == 2 * len("绿豆糕。".encode())
    ids = encoded.tokens.tolist()
    weighted = encoded.weights[1:] != 0
    content = weighted & (np.array(ids[1:]) != model.tokenizer.eos_id)
    nats = -logps(tiny_folder, ids)
    assert result["bits_per_byte"] == pytest.approx(nats[content].sum() / math.log(2) / result["bytes"], rel=1e-5)  # type: ignore[operator]  # plain values
    assert result["tokens"] == weighted.sum()


def test_a_document_longer_than_the_window_is_read_whole(model: Model, tiny_folder: Path, tmp_path: Path) -> None:
    end = model.tokenizer.eos_id
    assert end is not None
    document = encode_document(model.tokenizer, Document(TEXTS[0] * 100), end)
    ids, window = document.tokens.tolist(), 200
    assert len(ids) > 2 * window
    result = measured(model, write(tmp_path / "long", model, "document", [document]), window)
    nats, first = 0.0, 1
    while first < len(ids):
        start = max(0, first - window // 2)
        part = ids[start : start + window]
        nats -= logps(tiny_folder, part)[first - start - 1 :].sum()
        first = start + len(part)
    assert result["tokens"] == len(ids) - 1
    assert result["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-4)


def test_a_set_of_another_tokenizer_is_refused(model: Model, tmp_path: Path) -> None:
    document = encode_document(model.tokenizer, Document("a"), 0)
    with pytest.raises(UserError, match="another tokenizer"):
        measured(model, write(tmp_path / "other", model, "document", [document], tokenizer="other"))
    with pytest.raises(UserError, match="no token set"):
        token_sets(tmp_path / "absent")


def test_a_set_with_nothing_held_out_says_why(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "The quick brown fox."}\n')
    said = {}
    for share in (0.0, 0.01, 0.999):
        settings = DataSettings(
            sources=[SourceSettings(path=str(tmp_path / "one.jsonl"))], length=32, held_out=share, workers=1
        )
        pack(settings, tiny_folder, "pretrain", tmp_path / f"pack-{share}")
        said[share] = nothing_held_out("pretrain", tmp_path / f"pack-{share}" / "held_out")
    assert said[0.0] is not None and "its data's held_out is 0)" in said[0.0]
    assert said[0.01] is not None and "of 1 example none fell into the share of 0.01" in said[0.01]
    assert said[0.999] is None
