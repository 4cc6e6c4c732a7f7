"""A tokenizer as llama.cpp reads one: byte-level BPE by the name of its splitting, or SentencePiece BPE by scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from danlu.ledger.errors import UserError
from danlu.tokens.bpe import SPLIT
from danlu.tokens.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_LLAMA3 = SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_GPT2 = "GPT-2"
_SPLITTINGS = {
    ((SPLIT,), False): "qwen2",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_GPT2,), False): "gpt-2",
    (("digits", _GPT2), False): "starcoder",
}
"""(patterns, whether a whole word that is a token is taken without merging) and llama.cpp's name for that."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Words:
    """`tokens` by id, each with its type; what splits text into them."""

    kind: str
    """gpt2 (byte-level BPE, by `merges`) or llama (SentencePiece BPE, by `scores`)."""
    splitting: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    adds_space: bool


def words_of(tokenizer: Tokenizer, rows: int) -> Words:
    """The vocabulary filled up to `rows` of the embedding.

    Raises UserError for a tokenizer whose ids llama.cpp would not give.
    """
    state = json.loads(tokenizer.backend.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        raise _refused(tokenizer, f"a vocabulary of type {model['type']}; llama.cpp's are BPE")
    _require_plain_tokens(tokenizer)
    tokens = {id: text for text, id in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    spelled = [tokens.get(id, f"[PAD{id}]") for id in range(rows)]
    unknown = model.get("unk_token")
    types = [_type(tokenizer, id, tokens.get(id), unknown) for id in range(rows)]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    if tokenizer.byte_level:
        name = _splitting(tokenizer, state)
        return Words("gpt2", name, spelled, types, [" ".join(merge) for merge in merges], [], False)
    _require_sentencepiece(tokenizer, state)
    normal = {text: id for id, text in tokens.items() if types[id] == NORMAL}
    scores = _scores(tokenizer, merges, normal, rows)
    again = tokenizer.adds_space and (tokenizer.adds_space_again or tokenizer.chat_template is None)
    return Words("llama", "default", spelled, types, [], scores, again)


def _type(tokenizer: Tokenizer, id: int, text: str | None, unknown: str | None) -> int:
    if text is None:
        return UNUSED
    if text == unknown:
        return UNKNOWN
    if id in tokenizer.added_ids:
        return CONTROL if id in tokenizer.special_ids else USER_DEFINED
    return BYTE if not tokenizer.byte_level and _BYTE.fullmatch(text) else NORMAL


def _require_plain_tokens(tokenizer: Tokenizer) -> None:
    greedy = [
        token.content
        for token in tokenizer.backend.get_added_tokens_decoder().values()
        if token.lstrip or token.rstrip or token.single_word
    ]
    if greedy:
        raise _refused(tokenizer, f"{greedy[0]!r} takes the blanks beside it, or stands for whole words only")


def _splitting(tokenizer: Tokenizer, state: Mapping[str, Any]) -> str:
    normaliser = (state["normalizer"] or {"type": None})["type"]
    if normaliser not in (None, "NFC"):
        raise _refused(tokenizer, f"text is normalised by {normaliser}, which llama.cpp does not")
    patterns, whole = tuple(_patterns(state["pre_tokenizer"])), bool(state["model"].get("ignore_merges"))
    name = _SPLITTINGS.get((patterns, whole)) or _SPLITTINGS.get(
        (patterns, not whole) if _covers(state) else ((), False)
    )
    if name is None:
        shown = " then ".join(patterns) or "no pattern at all"
        raise _refused(tokenizer, f"text is split by {shown}, for which llama.cpp has no name")
    return name


def _covers(state: Mapping[str, Any]) -> bool:
    """Whether merging finds every token of the vocabulary, so that taking whole words at once changes nothing."""
    made = {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in state["model"]["merges"]}
    return all(text in made or len(text) == 1 for text in state["model"]["vocab"])


def _patterns(step: Mapping[str, Any] | None) -> Iterable[str]:
    """What each step of a pre-tokenizer splits by."""
    kind = step["type"] if step else None
    if step is None:
        return
    if kind == "Sequence":
        for inner in step["pretokenizers"]:
            yield from _patterns(inner)
    elif kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        yield next(iter(step["pattern"].values()))
    elif kind == "Digits" and step["individual_digits"]:
        yield "digits"
    elif kind == "ByteLevel" and not step["add_prefix_space"]:
        if step["use_regex"]:
            yield _GPT2
    else:
        yield str(kind)


def _require_sentencepiece(tokenizer: Tokenizer, state: Mapping[str, Any]) -> None:
    """Spaces as ▁, one put first or not, and bytes for what has no piece: nothing else may happen to a text."""
    normaliser, splitting = state["normalizer"], state["pre_tokenizer"]
    steps = normaliser["normalizers"] if normaliser and normaliser["type"] == "Sequence" else [normaliser]
    foreign = [step["type"] for step in steps if step and step["type"] not in ("Prepend", "Replace")]
    if splitting and not (splitting["type"] == "Metaspace" and not splitting["split"]):
        foreign.append(splitting["type"])
    if not state["model"].get("byte_fallback"):
        foreign.append("no bytes for unknown characters")
    if foreign:
        raise _refused(tokenizer, f"not plain SentencePiece: {', '.join(foreign)}")


def _scores(tokenizer: Tokenizer, merges: list[tuple[str, ...]], normal: Mapping[str, int], rows: int) -> list[float]:
    """A score for each token, so that the best pair of neighbours is the one that the merges take first.

    SentencePiece joins any two neighbours that make a piece, by that piece's score alone. Raises UserError where the
    merges do otherwise.
    """
    places: dict[str, list[int]] = {}
    for place, merge in enumerate(merges):
        places.setdefault("".join(merge), []).append(place)
    ways = {
        text: sum(text[:cut] in normal and text[cut:] in normal for cut in range(1, len(text)))
        for text in normal
        if len(text) > 1
    }
    for text, count in ways.items():
        found = places.get(text, [])
        if len(found) != count or (found and found[-1] - found[0] != count - 1):
            raise _refused(tokenizer, f"its merges make {text!r} otherwise than SentencePiece's scores would")
    scores = [0.0] * rows
    for text, found in places.items():
        if text in normal:
            scores[normal[text]] = -float(found[0] + 1)
    return scores


def _refused(tokenizer: Tokenizer, why: str) -> UserError:
    return UserError(
        f"llama.cpp would give other ids than this tokenizer: {why}",
        where=tokenizer.origin,
        do="export a Hugging Face folder (leave --gguf out), or train with a tokenizer that splits as Qwen2's does",
    )
