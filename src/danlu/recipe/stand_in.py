"""A model's folder in its published form at random weights: recipes for open models run where there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from danlu.config import Settings
from danlu.ledger.files import atomic_folder
from danlu.model.families.config import stated
from danlu.model.families.published import PUBLISHED, PublishedName, Words, small
from danlu.model.settings import ModelSettings, in_family
from danlu.text.settings import SourceSettings

if TYPE_CHECKING:
    from danlu.text.steps.base import Kind
    from danlu.tokens.tokenizer import Tokenizer

STAND_IN = "stand_in"
_ENTRIES = {True: 1024, False: 8192}
_BYTES = {True: 400_000, False: 4_000_000}
_RESERVED = 110


class StandInSettings(Settings):
    """Random weights and a small vocabulary in the form of a published model, for `model.from: "stand_in:"`."""

    published: PublishedName = Field(description="The model in whose form the folder is written.")
    small: bool = Field(
        default=False, description="Two narrow layers in float32, as --smoke takes them; false: its full shape in bf16."
    )


def write_stand_in(settings: StandInSettings, sources: list[SourceSettings], kind: Kind, seed: int, out: Path) -> None:
    """Writes config.json, weights and a tokenizer, learned from the records of `kind` in `sources`, into `out`.

    Raises UserError where these give too little text for a tokenizer.
    """
    import torch

    from danlu.model.decoder import Decoder
    from danlu.model.folder import save_decoder
    from danlu.model.parts import initialise

    published = PUBLISHED[settings.published]
    with atomic_folder(out, replace=True) as folder:
        words = _write_words(published.words, settings.small, _texts(sources, kind), folder)
        ids = {"bos_token_id": words.bos_id, "eos_token_id": words.eos_id, "pad_token_id": words.pad_id}
        config = published.config | ids
        config = small(config, words.vocab_size) | {"torch_dtype": "float32"} if settings.small else config
        shape = in_family(stated(config, out / "config.json").shape, config["model_type"])
        decoder = Decoder.empty(shape, torch.float32 if settings.small else torch.bfloat16)
        initialise(decoder, seed)
        save_decoder(decoder, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
        (folder / "generation_config.json").write_text(json.dumps(ids), "utf-8")


def stand_in_shape(settings: StandInSettings) -> ModelSettings:
    """The shape of what `write_stand_in` will write; of a small one the vocabulary at most."""
    published = PUBLISHED[settings.published]
    if not settings.small:
        return published.shape
    return stated(small(published.config, _ENTRIES[True]), Path("config.json")).shape


def _texts(sources: list[SourceSettings], kind: Kind) -> Iterator[str]:
    """What the records say."""
    from danlu.ledger.counts import Counts
    from danlu.text.records import Document
    from danlu.text.source import read_records

    for source in sources:
        for record in read_records(source, kind, Counts()):
            if isinstance(record, Document):
                yield record.text
            else:
                yield from (message["content"] or "" for message in record.messages)


def _write_words(form: Words, small: bool, texts: Iterator[str], folder: Path) -> Tokenizer:
    """A tokenizer in its published form."""
    from danlu.tokens.settings import TokenizerTrainSettings
    from danlu.tokens.tokenizer import Tokenizer
    from danlu.tokens.train import train_tokenizer

    entries, most = _ENTRIES[small], _BYTES[small]
    if form == "qwen":
        return train_tokenizer(TokenizerTrainSettings(vocab_size=entries, max_bytes=most), texts, folder)
    from danlu.tokens.sentencepiece import backend_of, train_sentencepiece

    symbols = [f"<reserved_{number}>" for number in range(_RESERVED)] if form == "baichuan" else []
    learn = TokenizerTrainSettings(kind="sentencepiece", vocab_size=entries, symbols=symbols)
    model = train_sentencepiece(learn, ["<s>", "</s>"], _first(texts, most))
    (folder / "tokenizer.model").write_bytes(model)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    if form == "baichuan":
        code = {"auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]}}
        config = named | code | {"tokenizer_class": "BaichuanTokenizer", "add_bos_token": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    else:
        Tokenizer(backend_of(model), named | {"tokenizer_class": "LlamaTokenizer"}).save(folder)
    return Tokenizer.load(folder)


def _first(texts: Iterator[str], most: int) -> Iterator[str]:
    """The texts until `most` characters were taken."""
    taken = 0
    for text in texts:
        if taken >= most:
            return
        taken += len(text)
        yield text
