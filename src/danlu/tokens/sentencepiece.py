"""SentencePiece BPE: merges of characters, spaces written as ▁, and bytes for the characters that it has not."""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from danlu.ledger.errors import UserError
from danlu.tokens.settings import TokenizerTrainSettings

UNKNOWN = "<unk>"
COVERAGE = 0.9998  # of the text by single characters; zh has thousands that come once, and bytes spell those
_LINE = 1000  # characters; SentencePiece leaves out whole lines above a size, and no piece is longer than 16
_RESERVED = re.compile(r"<reserved_\d+>")  # Baichuan's markup; in its models these are pieces like any symbol
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


def train_sentencepiece(settings: TokenizerTrainSettings, special: list[str], texts: Iterable[str]) -> bytes:
    """A model file learned from `texts`: byte fallback, single digits, text taken as it stands, no space before it.

    Raises UserError when the texts do not give so many pieces.
    """
    from sentencepiece import SentencePieceTrainer

    lines, written = list(_lines(texts)), io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_without_rare(lines, (settings.vocab_size - len(special) - 256) // 2),
            model_writer=written,
            model_type="bpe",
            vocab_size=settings.vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            character_coverage=1.0,
            max_sentence_length=8 * _LINE,
            unk_piece=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            control_symbols=special,
            user_defined_symbols=settings.symbols,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].strip().rstrip(".")
        raise UserError(
            f"SentencePiece cannot learn {settings.vocab_size:,} pieces from this text: {reason}",
            do="lower tokenizer.train.vocab_size, or give more text",
        ) from None
    return written.getvalue()


def backend_of(model: bytes, where: str = "tokenizer.model", added: Mapping[int, AddedToken] | None = None) -> Backend:
    """A model file in the form that transformers gives a Llama tokenizer.

    `added` tokens {id: token} take the place of pieces that the model keeps free, or follow behind its last one.
    Raises UserError for a model that is no BPE, and for added tokens that leave ids between them out.
    """
    try:
        read = _Model.of(model)
    except (IndexError, struct.error, UnicodeDecodeError):
        raise UserError("not a SentencePiece model", where=where, do="copy the file again from its origin") from None
    if not read.plain_bpe:
        raise UserError(
            "only SentencePiece BPE models with byte fallback and without normalisation are read",
            where=where,
            do="convert it to tokenizer.json with transformers",
        )
    added = dict(added or {})
    pieces = [
        _Piece(added[id].content, piece.score, _CONTROL) if id in added else piece
        for id, piece in enumerate(read.pieces)
    ]
    vocabulary = {piece.text: id for id, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in read.pieces if piece.type == _UNKNOWN), None)
    bpe = models.BPE(vocabulary, _merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = Backend(bpe)
    if read.adds_space:  # always one more, where Metaspace puts none before a text that begins with one
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    first = [decoders.Strip(" ", 1, 0)] if read.adds_space else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *first])
    for id, piece in enumerate(pieces):
        markup = _RESERVED.fullmatch(piece.text) is not None
        if id in added:
            backend.add_tokens([added[id]])
        elif piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED) or markup:
            special = markup or piece.type != _USER_DEFINED
            backend.add_tokens([AddedToken(piece.text, special=special, normalized=False)])
    for id in sorted(id for id in added if id >= len(pieces)):
        backend.add_tokens([added[id]])
        if backend.token_to_id(added[id].content) != id:
            do = "copy the tokenizer's files again from their origin"
            raise UserError(f"the added token {added[id].content!r} cannot have id {id}", where=where, do=do)
    return backend


class _Piece(NamedTuple):
    text: str
    score: float
    type: int


class _Model(NamedTuple):
    """What is needed of a model file, which is a protocol buffer."""

    pieces: list[_Piece]
    plain_bpe: bool
    adds_space: bool

    @classmethod
    def of(cls, data: bytes) -> _Model:
        top = _fields(data)
        pieces = []
        for piece in top.get(1, []):
            given = _fields(piece)
            score = struct.unpack("<f", given[2][-1])[0] if 2 in given else 0.0
            pieces.append(_Piece(given[1][-1].decode(), score, given.get(3, [_NORMAL])[-1]))
        trainer, rules = (_fields(top.get(number, [b""])[-1]) for number in (2, 3))
        is_bpe, in_bytes, charsmap = trainer.get(3) == [2], trainer.get(35) == [1], rules.get(2, [b""])[-1]
        return cls(pieces, bool(pieces) and is_bpe and in_bytes and not charsmap, rules.get(3, [1]) == [1])


def _fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer message by number: integers, or bytes."""
    found: dict[int, list[Any]] = {}
    place = 0

    def varint() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = data[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            value: Any = varint()
        else:
            size = {1: 8, 2: -1, 5: 4}.get(wire, len(data) + 1)
            size = varint() if size < 0 else size
            if place + size > len(data):
                raise IndexError("the message ends inside a field")
            value, place = data[place : place + size], place + size
        found.setdefault(number, []).append(value)
    return found


def _merges(pieces: list[_Piece]) -> list[tuple[str, str]]:
    """Every way in which two pieces make a third, in the order of the third's score."""
    ranks = {piece.text: -piece.score for piece in pieces if piece.type == _NORMAL}
    found = [
        (rank, text[:cut], text[cut:])
        for text, rank in ranks.items()
        for cut in range(1, len(text))
        if text[:cut] in ranks and text[cut:] in ranks
    ]
    return [(left, right) for _, left, right in sorted(found, key=lambda merge: merge[0])]


def _without_rare(lines: list[str], most: int) -> Iterator[str]:
    """The lines, parted at the characters that bytes shall spell: all but the most common, `most` of them or fewer."""
    counts = Counter[str]()
    for line in lines:
        counts.update(line)
    taken, total = 0, counts.total()
    rare: dict[int, str] = {}
    for number, (character, count) in enumerate(counts.most_common()):
        if number >= most or taken >= COVERAGE * total:
            rare[ord(character)] = "\n"
        taken += count
    for line in lines:
        yield from line.translate(rare).splitlines()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            yield from (line[start : start + _LINE] for start in range(0, len(line), _LINE))
