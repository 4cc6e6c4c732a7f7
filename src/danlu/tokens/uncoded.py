"""SentencePiece folders whose tokenizer class is code beside it (Baichuan, InternLM2, Yi): read without that code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from danlu.ledger.errors import UserError
from danlu.tokens.sentencepiece import backend_of

MODEL = "tokenizer.model"
_CODE = ("auto_map", "tokenizer_class", "sp_model_kwargs", "tokenizer_file", "added_tokens_decoder", "name_or_path")
_BEGIN_BY_THEMSELVES = ("InternLM2Tokenizer", "InternLM2TokenizerFast")  # unless their config says otherwise


def needs_code(path: Path, config: dict[str, Any]) -> bool:
    """Whether the folder names code for its tokenizer, and has a model file that does without."""
    return "auto_map" in config and (path / MODEL).is_file()


def backend_without_code(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The model file with the folder's added tokens, and the start token before a text where the config adds one.

    Raises UserError for a model or added tokens that cannot be read.
    """
    backend = backend_of((path / MODEL).read_bytes(), str(path / MODEL), _added(path, config))
    begins = config.get("add_bos_token", config.get("tokenizer_class") in _BEGIN_BY_THEMSELVES)
    bos = config.get("bos_token")
    text = bos["content"] if isinstance(bos, dict) else bos
    if begins and text is not None and (id := backend.token_to_id(text)) is not None:
        backend.post_processor = TemplateProcessing(
            single=[text, "$A"], pair=[text, "$A", text, "$B"], special_tokens=[(text, id)]
        )
    return backend


def without_code(config: dict[str, Any]) -> dict[str, Any]:
    """The config without the keys that name code: what is saved opens as an ordinary fast tokenizer."""
    return {key: value for key, value in config.items() if key not in _CODE} if "auto_map" in config else config


def _added(path: Path, config: dict[str, Any]) -> dict[int, tokenizers.AddedToken]:
    """Added tokens by id, from tokenizer_config.json or the older added_tokens.json."""
    found: dict[int, Any] = {}
    older = path / "added_tokens.json"
    try:
        if older.is_file():
            found |= {int(id): {"content": text} for text, id in json.loads(older.read_text("utf-8")).items()}
        found |= {int(id): token for id, token in (config.get("added_tokens_decoder") or {}).items()}
        return {
            id: tokenizers.AddedToken(str(token["content"]), special=bool(token.get("special", True)), normalized=False)
            for id, token in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        do = "copy the tokenizer's files again from their origin"
        raise UserError(f"these added tokens cannot be read ({error!r})", where=str(path), do=do) from None
