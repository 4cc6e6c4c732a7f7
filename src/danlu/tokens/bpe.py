"""Training a byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.tokens.jinja import CHATML
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.tokenizer import Tokenizer

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Texts are split here before pairs are merged, so no token crosses a split: English contractions; up to 8 characters
# of scripts written without spaces (what bounds the number of different words, and so memory); words of other scripts
# with the sign or space before them; single digits; punctuation with the space before it; line ends; other blanks.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
SPLIT = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        rf"[{_UNSPACED}]{{1,8}}",
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{_UNSPACED}]]{{1,64}}",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]{1,16}[\r\n]*",
        r"\s*[\r\n]{1,64}",
        r"\s{1,64}(?!\S)",
        r"\s{1,64}",
    ]
)


def train_tokenizer(settings: TokenizerTrainSettings, texts: Iterator[str], out: Path) -> Tokenizer:
    """Learn a vocabulary from `texts`, at most `settings.max_bytes` of them, and save it in the new folder `out`.

    The 256 bytes are in it, so every text has tokens, and decoding gives back the very text. Digits stand alone.
    Conversations are written as ChatML; documents and answers end in <|im_end|>. The same texts give the same
    tokenizer. Raises UserError when the texts do not give as many tokens as the settings ask for.
    """
    special = [END_OF_TEXT, START, END, *(f"<|reserved_{number}|>" for number in range(settings.reserved))]
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
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
