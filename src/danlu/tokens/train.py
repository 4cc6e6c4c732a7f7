"""Training a tokenizer on text: byte-level BPE or SentencePiece BPE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.tokens.bpe import train_byte_bpe
from danlu.tokens.jinja import CHATML
from danlu.tokens.sentencepiece import UNKNOWN, backend_of, train_sentencepiece
from danlu.tokens.settings import LEAST, TokenizerTrainSettings
from danlu.tokens.tokenizer import Tokenizer

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def train_tokenizer(settings: TokenizerTrainSettings, texts: Iterable[str], out: Path) -> Tokenizer:
    """Learn a vocabulary from `texts`, at most `settings.max_bytes` of them, and save it in the new folder `out`.

    The 256 bytes are in it, so every text has tokens, and decoding gives the text back: byte-level BPE as NFC,
    SentencePiece as it stands but for ▁ (U+2581), its sign for a space. Digits stand alone. Conversations are
    written as ChatML; documents and answers end in <|im_end|>. The same texts give the same tokenizer. Raises
    UserError when the texts do not give as many tokens as the settings ask for.
    """
    given = _Capped(texts, settings.max_bytes)
    with atomic_folder(out, replace=True) as folder:
        if settings.kind == "byte_bpe":
            backend = _byte_bpe(settings, given)
        else:
            model = _sentencepiece(settings, given)
            (folder / "tokenizer.model").write_bytes(model)
            backend = backend_of(model)
        tokenizer = Tokenizer(backend, _config(settings), CHATML, origin=str(out))
        tokenizer.save(folder)
    return tokenizer


def _byte_bpe(settings: TokenizerTrainSettings, given: _Capped) -> Backend:
    special = _special(settings.reserved)
    backend = train_byte_bpe(settings, special, given)
    given.require_text()
    reached = backend.get_vocab_size(with_added_tokens=False) + len(settings.symbols)
    if reached < settings.vocab_size:
        merges = reached - 256 - len(special) - len(settings.symbols)
        ways = [f"set tokenizer.train.vocab_size to {reached} or less"] if reached >= LEAST else []
        ways.append(f"raise tokenizer.train.max_bytes (now {settings.max_bytes:,})" if given.full else "give more text")
        ways += ["lower min_frequency"] if settings.min_frequency > 1 else []
        raise UserError(
            f"the text ({given.taken:,} bytes) gave only {reached:,} of {settings.vocab_size:,} tokens: 256 bytes, "
            f"{len(special)} special tokens and {merges:,} merges seen {settings.min_frequency} times",
            do=", or ".join(ways),
        )
    missing = -backend.get_vocab_size() % settings.multiple_of
    more = _special(settings.reserved + missing)[len(special) :]
    backend.add_special_tokens([AddedToken(text, special=True) for text in more])
    return backend


def _sentencepiece(settings: TokenizerTrainSettings, given: _Capped) -> bytes:
    more = -settings.vocab_size % settings.multiple_of
    whole = settings.model_copy(update={"vocab_size": settings.vocab_size + more})
    try:
        return train_sentencepiece(whole, _special(settings.reserved + more), given)
    except UserError:
        given.require_text()
        raise


def _special(reserved: int) -> list[str]:
    return [END_OF_TEXT, START, END, *(f"<|reserved_{number}|>" for number in range(reserved))]


def _config(settings: TokenizerTrainSettings) -> dict[str, object]:
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    if settings.kind == "sentencepiece":
        llama = {"add_prefix_space": False, "legacy": False, "add_bos_token": False, "add_eos_token": False}
        config |= {"tokenizer_class": "LlamaTokenizer", "unk_token": UNKNOWN, **llama}
    return config


class _Capped:
    """The texts until `limit` bytes were taken; the text that passes the limit is cut at a character."""

    def __init__(self, texts: Iterable[str], limit: int) -> None:
        self._texts, self._limit, self.taken = texts, limit, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            if self.taken >= self._limit:
                return
            encoded = text.encode("utf-8", "replace")[: self._limit - self.taken]
            self.taken += len(encoded)
            yield encoded.decode("utf-8", "ignore")

    @property
    def full(self) -> bool:
        """Whether the limit was reached."""
        return self.taken >= self._limit

    def require_text(self) -> None:
        """Raises UserError where there was none."""
        if self.taken == 0:
            raise UserError("there is no text to train the tokenizer on", do="check the sources of the tokenizer stage")
