"""Training a byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.tokens.jinja import CHATML
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.tokenizer import Tokenizer

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# No token crosses a split. This is Qwen2's: English contractions; a word with the sign before it; single digits;
# punctuation with the space before it; line ends; other blanks. For a model of type qwen2 transformers always splits
# (and normalises, to NFC) like this, whatever tokenizer.json says, so a tokenizer for such a model must.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# In training, scripts without spaces and very long words are split further: whole clauses would be different words
# each, and memory would grow with the text.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
SPLIT_LONG = rf"[{_UNSPACED}]{{1,8}}|[^{_UNSPACED}]{{1,32}}"


def train_tokenizer(settings: TokenizerTrainSettings, texts: Iterator[str], out: Path) -> Tokenizer:
    """Learn a vocabulary from `texts`, at most `settings.max_bytes` of them, and save it in the new folder `out`.

    The 256 bytes are in it, so every text has tokens, and decoding gives the text back (as NFC). Digits stand alone.
    Conversations are written as ChatML; documents and answers end in <|im_end|>. The same texts give the same
    tokenizer. Raises UserError when the texts do not give as many tokens as the settings ask for.
    """
    special = [END_OF_TEXT, START, END, *(f"<|reserved_{number}|>" for number in range(settings.reserved))]
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _splitting(SPLIT, SPLIT_LONG)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    given = _Capped(texts, settings.max_bytes)
    backend.train_from_iterator(given, trainer)
    backend.pre_tokenizer = _splitting(SPLIT)
    _check(backend.get_vocab_size(), len(special), given.taken, settings)
    missing = -backend.get_vocab_size() % settings.multiple_of
    numbers = range(settings.reserved, settings.reserved + missing)
    backend.add_special_tokens([AddedToken(f"<|reserved_{number}|>", special=True) for number in numbers])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    tokenizer = Tokenizer(backend, config, CHATML, origin=str(out))
    with atomic_folder(out, replace=True) as folder:
        tokenizer.save(folder)
    return tokenizer


def _splitting(*patterns: str) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


class _Capped:
    """The texts until `limit` bytes were taken; the text that passes the limit is cut at a character."""

    def __init__(self, texts: Iterator[str], limit: int) -> None:
        self._texts, self._limit, self.taken = texts, limit, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            encoded = text.encode("utf-8", "replace")[: self._limit - self.taken]
            self.taken += len(encoded)
            yield encoded.decode("utf-8", "ignore")
            if self.taken >= self._limit:
                return


def _check(reached: int, special: int, taken: int, settings: TokenizerTrainSettings) -> None:
    if taken == 0:
        raise UserError("there is no text to train the tokenizer on", do="check the sources of the tokenizer stage")
    if reached < settings.vocab_size:
        raise UserError(
            f"the text ({taken:,} bytes) gave only {reached:,} of {settings.vocab_size:,} tokens: 256 bytes, "
            f"{special} special tokens and {reached - 256 - special:,} merges seen {settings.min_frequency} times",
            do=f"set tokenizer.train.vocab_size to {reached} or less, give more text, or lower min_frequency",
        )
