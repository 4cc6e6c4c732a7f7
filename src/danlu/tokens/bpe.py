"""Byte-level BPE: merges of bytes inside the words that a pattern splits off."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from danlu.tokens.settings import TokenizerTrainSettings

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


def train_byte_bpe(settings: TokenizerTrainSettings, special: list[str], texts: Iterable[str]) -> Backend:
    """A vocabulary learned from `texts`: the special tokens, the 256 bytes, then merges; it may end up too small."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _splitting(SPLIT, SPLIT_LONG)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size - len(settings.symbols),
        min_frequency=settings.min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = _splitting(SPLIT)
    backend.add_tokens([AddedToken(symbol, normalized=False) for symbol in settings.symbols])
    return backend


def _splitting(*patterns: str) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
