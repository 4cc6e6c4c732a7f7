"""A Hugging Face tokenizer: text to ids and back, with special tokens kept apart from ordinary text."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from danlu.ledger.errors import UserError
from danlu.ledger.files import explained, fingerprint, read_json
from danlu.tokens.characters import TokenBytes, byte_alphabet
from danlu.tokens.fast import FastEncoder, plain_encoder
from danlu.tokens.sentencepiece import backend_of
from danlu.tokens.uncoded import backend_without_code, needs_code, without_code

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
FEW_CHARACTERS = 500_000  # about as long as they take, the fast encoder takes to be built and proven
LITTLE = "tokenizers (little text)"
_VOCABULARIES = (
    "*.model",
    "vocab.*",
    "*.tiktoken",
    "tekken.json",
)  # without one, transformers makes an empty tokenizer


class Tokenizer:
    """Encodes and decodes as the folder's `tokenizer.json` says; adds no token by itself.

    `special` maps the text of each special token to its id. `origin` is the folder it came from.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any],
        chat_template: str | None = None,
        generation_stops: tuple[int, ...] = (),
        origin: str = "tokenizer",
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        self.config = config
        self.chat_template = chat_template
        self.generation_stops = generation_stops
        self.origin = origin
        added = backend.get_added_tokens_decoder()
        self.special = {token.content: id for id, token in sorted(added.items()) if token.special}
        self.special_ids = frozenset(self.special.values())
        self.added_ids = frozenset(added)
        self._characters = 0

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a folder with `tokenizer.json`; without one, what `transformers` can convert without remote code.

        `path` may be the tokenizer.json itself, or a SentencePiece model file. Raises UserError when there is no
        tokenizer or a damaged one.
        """
        path = Path(path)
        if path.suffix == ".model" and path.is_file():
            return cls(backend_of(path.read_bytes(), str(path)), {}, origin=str(path))
        path = path.parent if path.name == "tokenizer.json" else path
        config = _read_json(path / "tokenizer_config.json")
        config = {**_read_json(path / "special_tokens_map.json"), **config}
        stops = _read_json(path / "generation_config.json").get("eos_token_id") or []
        backend = _read_backend(path, config)
        return cls(
            backend,
            without_code(config),
            _read_chat_template(path, config),
            tuple(stops) if isinstance(stops, list) else (stops,),
            str(path),
        )

    def with_chat_template(self, chat_template: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        other = copy.copy(self)
        other.chat_template = chat_template
        return other

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """The ids of content: the text of a special token is split like any other text.

        `inside` says that the text goes on where another stopped, so a tokenizer that puts a space before the
        first word puts none here.
        """
        return self.encode_array(text, inside).tolist()

    def encode_array(self, text: str, inside: bool = False) -> NDArray[np.uint32]:
        """`encode` as uint32 [n]; much text is encoded by the fast encoder."""
        lead, skip = self.lead(inside)
        encode = self.fast.encode if self._has_much(text) else plain_encoder(self.backend)
        return encode(lead + valid_text(text))[skip:]

    def encode_batch(self, texts: Sequence[str], inside: bool = False) -> list[list[int]]:
        """`encode` for many texts at once."""
        return [self.encode(text, inside) for text in texts]

    def encode_markup(self, text: str, inside: bool = False) -> list[int]:
        """The ids of text in which the text of a special token is that token."""
        lead, skip = self.lead(inside)
        encode = self._fast_markup.encode if self._has_much(text) else plain_encoder(self._markup)
        return encode(lead + valid_text(text))[skip:].tolist()

    def lead(self, inside: bool) -> tuple[str, int]:
        """What to encode before a text that goes on, so that it gets no first space, and how many ids that is."""
        if not (inside and self.adds_space):
            return "", 0
        return "\n", len(self.backend.encode("\n", add_special_tokens=False).ids)

    @cached_property
    def fast(self) -> FastEncoder:
        """The encoder of much text."""
        return FastEncoder.of(self.backend)

    @property
    def encoder_name(self) -> str:
        """The library that encodes content now; where it is the slow one for much text, also why."""
        return self.fast.name if self._characters > FEW_CHARACTERS else LITTLE

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of the ids; bytes that are no UTF-8 become replacement characters."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def token(self, id: int) -> str:
        """The vocabulary's spelling of a token. Raises UserError for an id that it does not have."""
        spelling = self.backend.id_to_token(id)
        if spelling is None:
            raise UserError(f"the vocabulary has no token {id} (it has {self.vocab_size})", where=self.origin)
        return spelling

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens among them."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def bos_id(self) -> int | None:
        """The id of the token that begins a text, if the tokenizer names one."""
        return self._named_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """The id of the token that ends a text, if the tokenizer names one."""
        return self._named_id("eos_token")

    @property
    def pad_id(self) -> int | None:
        """The id of the padding token, if the tokenizer names one."""
        return self._named_id("pad_token")

    def named_texts(self) -> dict[str, str]:
        """The texts of the tokens that templates know by name: bos_token, eos_token, ..."""
        return {name: text for name in _NAMED if (text := _token_text(self.config.get(name))) is not None}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides ids: vocabulary, merges, normalisation, splitting and special tokens."""
        state = json.loads(self.backend.to_str())
        return fingerprint({key: state[key] for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")})

    @cached_property
    def token_bytes(self) -> TokenBytes:
        """The UTF-8 bytes of every token."""
        spellings = {id: text for text, id in self.backend.get_vocab(with_added_tokens=True).items()}
        alphabet = byte_alphabet() if self.byte_level else {}
        return TokenBytes.of(
            _bytes(spellings.get(id, ""), alphabet, id in self.added_ids) for id in range(self.vocab_size)
        )

    @cached_property
    def byte_level(self) -> bool:
        """Whether tokens are spelled in the letters that stand for bytes, as Qwen's; else in characters."""
        return '"ByteLevel"' in json.dumps(json.loads(self.backend.to_str())["decoder"])

    @cached_property
    def begins(self) -> list[int]:
        """The start token, where the tokenizer itself begins every text with it."""
        first: list[int] = self.backend.encode("", add_special_tokens=True).ids[:1]
        return first if first == [self.bos_id] else []

    @cached_property
    def adds_space(self) -> bool:
        """Whether a space is put before the first word of a text, as SentencePiece does."""
        ids = self.backend.encode("a", add_special_tokens=False).ids
        return bool(ids) and self.token_bytes[ids[0]].startswith(b" ")

    @cached_property
    def adds_space_again(self) -> bool:
        """Whether that space is put before the first word after a special token too."""
        if not (self.adds_space and self.special):
            return False
        first = self.encode_markup(next(iter(self.special)) + "a")[1]
        return self.token_bytes[first].startswith(b" ")

    def save(self, folder: Path) -> None:
        """Write a folder that `Tokenizer.load` and `transformers.AutoTokenizer` open with the same ids."""
        folder = Path(folder)
        with explained(folder / "tokenizer.json"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8", newline="")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.config}
        config.pop("chat_template", None)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8", newline="")
            config["chat_template"] = self.chat_template
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _has_much(self, text: str) -> bool:
        """Whether so much text has come, this one included, that the fast encoder pays."""
        self._characters += len(text)
        return self._characters > FEW_CHARACTERS

    @cached_property
    def _fast_markup(self) -> FastEncoder:
        return FastEncoder.of(self._markup)

    @cached_property
    def _markup(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.backend.to_str())

    def _named_id(self, name: str) -> int | None:
        text = _token_text(self.config.get(name))
        return None if text is None else self.backend.token_to_id(text)


def valid_text(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, as replacement characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _token_text(value: Any) -> str | None:
    return value["content"] if isinstance(value, dict) else value


def _bytes(spelling: str, alphabet: dict[str, int], added: bool) -> bytes:
    """The bytes of a token: byte-level letters, SentencePiece's <0xE4> and ▁, or the spelling itself."""
    if added:
        return spelling.encode()
    if alphabet:
        return bytes(alphabet[letter] for letter in spelling)
    if len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">"):
        return bytes([int(spelling[3:5], 16)])
    return spelling.replace("▁", " ").encode()


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, "fetch the tokenizer again") if path.is_file() else {}


def _read_backend(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The folder's tokenizer, with every token that the config names or lists as special marked so."""
    file = path / "tokenizer.json"
    if not file.is_file():
        backend = backend_without_code(path, config) if needs_code(path, config) else _converted(path)
    else:
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception for every damaged file
            raise UserError(f"not a tokenizer: {error}", where=str(file), do="fetch the tokenizer again") from None
    listed = [config.get(name) for name in _NAMED] + list(config.get("additional_special_tokens") or [])
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    texts = {text for value in listed if (text := _token_text(value)) is not None}
    plain = [text for text in sorted(texts) if backend.token_to_id(text) is not None]
    missing = [text for text in plain if text not in added or not added[text].special]
    if missing:
        backend.add_special_tokens([added.get(text) or tokenizers.AddedToken(text, special=True) for text in missing])
    return backend


def _converted(path: Path) -> tokenizers.Tokenizer:
    """What transformers makes of an older folder (vocab.json and merges.txt, tokenizer.model)."""
    if not path.is_dir() or not any(file for name in _VOCABULARIES for file in path.glob(name)):
        do = "copy tokenizer.json, tokenizer.model or vocab.json and merges.txt of the model into it"
        if path.is_file():
            raise UserError(
                "not a tokenizer", where=str(path), do="name its folder, or a tokenizer.json or .model file"
            )
        raise UserError("no tokenizer here", where=str(path), do=do)
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, ImportError, KeyError, TypeError) as error:
        do = "name a folder that holds tokenizer.json"
        raise UserError(f"no tokenizer that can be opened: {error}", where=str(path), do=do) from None
    if not loaded.is_fast:
        raise UserError("this tokenizer has no fast form", where=str(path), do="convert it to tokenizer.json first")
    return tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())


def _read_chat_template(path: Path, config: dict[str, Any]) -> str | None:
    """The folder's template: chat_template.jinja, else the config's (its `default` where there are several)."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template
