"""More tokens for a tokenizer that is there: merges put after all of its own, so nothing else changes.

The old merges run first, as before; a new one then joins two neighbours. So whoever takes the new tokens of any text
apart again has its old ids, and a text in which no new merge applies keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from danlu.ledger.errors import UserError
from danlu.tokens.fast import probe_texts
from danlu.tokens.tokenizer import Tokenizer, valid_text

_FIRST = 0x10000  # id n stands as the character after this many while merges are learned: no blanks, no surrogates
_LONGEST = 16  # old tokens in a word to learn from; whole clauses would be different words each
_SPARE = 100  # merges learned beyond those asked for: one that ends inside a character is kept only where needed
_TOGETHER = 256


@dataclass(frozen=True)
class Extension:
    """A tokenizer with more tokens; `pieces` {new id: the old ids that it joins}; `left_out` {word: why}."""

    tokenizer: Tokenizer
    pieces: dict[int, list[int]]
    left_out: dict[str, str]

    def taken_apart(self, ids: Iterable[int]) -> list[int]:
        """The old tokenizer's ids of what these ids spell."""
        return [old for id in ids for old in self.pieces.get(id, [id])]


def extend(base: Tokenizer, texts: Iterable[str] = (), size: int = 0, words: Sequence[str] = ()) -> Extension:
    """`words` as one token each, then the `size` tokens that shorten `texts` the most.

    A word that begins with a letter of a script with spaces gets a token with a space before it too. Fewer than
    `size` are found where nothing more comes twice. Raises UserError for a tokenizer that is no BPE.
    """
    grown = _Growing(base)
    for word in words:
        grown.add_word(word)
    if size:
        grown.add_learned(texts, size)
    if not grown.pieces:
        raise UserError("there is no token to add", do="give more text, or words that are not one token yet")
    found = Extension(grown.tokenizer(), grown.pieces, grown.left_out)
    for text in probe_texts(base.backend):
        if found.taken_apart(found.tokenizer.encode(text)) != base.encode(text):
            raise UserError(f"merges after its own change what this tokenizer makes of {text!r}", where=base.origin)
    return found


class _Growing:
    def __init__(self, base: Tokenizer) -> None:
        self.base = base
        self.state: dict[str, Any] = json.loads(base.backend.to_str())
        model = self.state["model"]
        self.byte_level = base.byte_level
        if model["type"] != "BPE" or not (self.byte_level or model["byte_fallback"]):
            raise UserError(
                f"only byte-level BPE and SentencePiece BPE with byte fallback can be extended, not {model['type']}",
                where=base.origin,
            )
        self.vocabulary: dict[str, int] = model["vocab"]
        # tokenizers numbers added tokens behind the model's, unless the model knows them.
        self.vocabulary |= {token["content"]: token["id"] for token in self.state["added_tokens"]}
        self.spellings = {id: spelling for spelling, id in self.vocabulary.items()}
        self.merges: dict[tuple[int, int], int] = {}
        self.pieces: dict[int, list[int]] = {}
        self.left_out: dict[str, str] = {}

    def add_word(self, word: str) -> None:
        """Makes a word one token, by merges from its left to its right."""
        spaced = [" " + word] if word[:1].isalpha() and word[:1].lower() != word[:1].upper() else []
        for text in (word, *spaced):
            parts = list(self._words([text], len(text.encode())))
            if len(parts) != 1:
                self.left_out[text] = "the tokenizer never joins its parts" if parts else "no text"
                continue
            ids = self._merged(parts[0])
            while len(ids) > 1 and self._add(ids[0], ids[1]) is not None:
                ids = self._merged(ids)
            if len(ids) > 1:
                self.left_out[text] = f"the vocabulary has {self.spellings[ids[0]] + self.spellings[ids[1]]!r} unused"

    def add_learned(self, texts: Iterable[str], size: int) -> None:
        """Learns merges of whole tokens with the trainer of tokenizers: each token stands as one character."""
        seen: set[str] = set()

        def lines() -> Iterator[str]:
            given = iter(texts)
            while some := list(islice(given, _TOGETHER)):
                words = (self._merged(word) for word in self._words(some, _LONGEST))
                line = " ".join("".join(chr(_FIRST + id) for id in word) for word in words if len(word) > 1)
                seen.update(line)
                yield line

        kept = list(lines())
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        wanted = len(seen - {" "}) + size + size // 4 + _SPARE
        backend.train_from_iterator(kept, trainers.BpeTrainer(vocab_size=wanted, min_frequency=2, show_progress=False))
        learned = json.loads(backend.to_str())["model"]["merges"]
        self._keep([(left, right) for left, right in learned], size)

    def tokenizer(self) -> Tokenizer:
        """The extended tokenizer."""
        model = self.state["model"]
        model["merges"] += [[self.spellings[left], self.spellings[right]] for left, right in self.merges]
        backend = tokenizers.Tokenizer.from_str(json.dumps(self.state, ensure_ascii=False))
        base = self.base
        return Tokenizer(backend, base.config, base.chat_template, base.generation_stops, base.origin)

    def _keep(self, learned: list[tuple[str, str]], size: int) -> None:
        """Adds the first `size` of the learned merges that give whole characters, with those that they are made of."""
        made = {left + right: number for number, (left, right) in enumerate(learned)}
        kept: set[int] = set()
        for number, (left, right) in enumerate(learned):
            if self._is_text(left + right):
                needed, open_ = set[int](), [number]
                while open_:
                    one = open_.pop()
                    needed.add(one)
                    open_ += [made[part] for part in learned[one] if part in made and made[part] not in needed]
                if len(kept | needed) <= size:
                    kept |= needed
            if len(kept) == size:
                break
        ids = {chr(_FIRST + id): id for id in self.spellings}
        for number in sorted(kept):
            left, right = learned[number]
            if left in ids and right in ids and (new := self._add(ids[left], ids[right])) is not None:
                ids[left + right] = new

    def _is_text(self, characters: str) -> bool:
        old = [piece for character in characters for piece in self._old(ord(character) - _FIRST)]
        try:
            b"".join(self.base.token_bytes[id] for id in old).decode()
        except UnicodeDecodeError:
            return False
        return True

    def _add(self, left: int, right: int) -> int | None:
        """The id of the token that joins two; None where the vocabulary has one of the same spelling."""
        spelling = self.spellings[left] + self.spellings[right]
        if spelling in self.vocabulary:
            return None
        new = self.base.vocab_size + len(self.pieces)
        self.vocabulary[spelling], self.spellings[new] = new, spelling
        self.merges[left, right] = new
        self.pieces[new] = self._old(left) + self._old(right)
        return new

    def _old(self, id: int) -> list[int]:
        return self.pieces.get(id, [id])

    def _merged(self, ids: list[int]) -> list[int]:
        """A word's ids after the new merges, the earliest first."""
        if not self.merges:
            return ids
        ranks = {pair: new for pair in pairwise(ids) if (new := self.merges.get(pair)) is not None}
        while ranks:
            (left, right), new = min(ranks.items(), key=lambda found: found[1])
            joined: list[int] = []
            for id in ids:
                if joined and (joined[-1], id) == (left, right):
                    joined[-1] = new
                else:
                    joined.append(id)
            ids = joined
            ranks = {pair: new for pair in pairwise(ids) if (new := self.merges.get(pair)) is not None}
        return ids

    def _words(self, texts: Sequence[str], longest: int) -> Iterator[list[int]]:
        """The old ids of each run of text inside which tokens may be joined, those over `longest` in parts."""
        lead, skip = self.base.lead(inside=True)
        given = [lead + valid_text(text) for text in texts]
        for found in self.base.backend.encode_batch(given, add_special_tokens=False):
            word: list[int] = []
            last = None
            for id, run in list(zip(found.ids, found.word_ids, strict=True))[skip:]:
                if word and (run != last or len(word) == longest or self._begins(word, id)):
                    yield word
                    word = []
                word.append(id)
                last = run
            if word:
                yield word

    def _begins(self, word: list[int], id: int) -> bool:
        """Whether a token stands apart from those before it.

        Added tokens do; with SentencePiece, which splits nothing off, also words by their space, digits and bytes.
        """
        if {id, word[-1]} & self.base.added_ids:
            return True
        if self.byte_level:
            return False
        before, this = self.spellings[word[-1]], self.spellings[id]
        return (this.startswith("▁") and before.strip("▁") != "") or any(
            one.isdigit() or one.startswith("<0x") for one in (before, this)
        )
