"""What a tokenizer makes of texts, and what is in its vocabulary that no text needs or no text can have."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from danlu.tokens.tokenizer import Tokenizer, valid_text

EDGES = {
    "emoji": "👨‍👩‍👧‍👦 👍🏽 🇨🇳 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "composed": "é Å が 각 ṩ",
    "decomposed": "e\u0301 A\u030a か\u3099 s\u0323\u0307",
    "control": "\x00\x07\x1b[0m\x7f\x85\u2028",
    "line_ends": "a\r\nb\rc\n\r\n\n",
    "blanks": "  a   b\t\t\n\n\n   c \u3000\u00a0 ",
    "astral_han": "𠀀𪛖𫠝𬺓㐀",
    "mixed": "中文English日本語한국어русскийعربيไทย",
    "invisible": "\ufeff\u200b\u200d\u2060\u202e\u00ad",
    "full_width": "ＡＢＣ１２３，。！？　",
    "compatibility": "ﬁ ① ㎏ ½ 豈 Å",
    "code": "def f(x):\n    if x:\n\treturn [1, 2]\n",
    "markup": "<|im_end|></s>[INST]<0x0A><unk>",
    "metaspace": "▁a▁▁b",
    "lone_marks": "\u0301\u0903\u20e3 x",
}
"""Texts that tokenizers are known to change."""
HABITS = {
    "digits": ["1234567890", "3.14", "2026年", "１２３", "1,000,000"],
    "blanks": [" x", "    x", "\t\tx", "\n\n", "\r\n", "　　x"],
    "mixed": ["绿豆糕", "Hello world", "GPT-4模型", "don't", "，。", "……"],
}
"""Texts whose splitting shows how a tokenizer deals with digits, blanks and words."""
ODD = ("unreachable", "across", "part", "long", "repeated", "folded")
"""No text has it; bytes of several characters; of one; LONG characters; one character REPEATED times; another token
says the same in NFKC."""
LONG, REPEATED, EXAMPLES = 20, 8, 12
_SIGNS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u3000": "［　］", "\u00a0": "⍽"}
_NEVER = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])  # bytes that UTF-8 has not
_RUN = re.compile(rf"(.)\1{{{REPEATED - 1},}}")
_LAST = 1 << 40
_CONTEXTS = ("{}", "a{}", "{}a", " {}", "好{}", "{}好", "\n{}", "{}\n", "1{}", "。{}")


@dataclass(slots=True)
class Density:
    """How many bytes, characters and tokens a kind of text has."""

    bytes: int = 0
    characters: int = 0
    tokens: int = 0

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token stands for."""
        return self.bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Odd:
    """Tokens of one kind: how many, and some of them as they are spelled, from all parts of the vocabulary."""

    count: int
    examples: list[str]

    @classmethod
    def of(cls, spelled: list[bytes]) -> Odd:
        few = min(EXAMPLES, len(spelled))
        return cls(len(spelled), [visible(spelled[number * len(spelled) // few]) for number in range(few)])


@dataclass(frozen=True, slots=True)
class Study:
    """What was found of one tokenizer."""

    name: str
    entries: int
    form: str
    encoder: str
    special: dict[str, int]
    named: dict[str, str]
    densities: dict[tuple[str, str], Density]
    """By language and source."""
    habits: dict[str, dict[str, list[str]]]
    """By kind and text: the tokens as they are spelled."""
    odd: dict[str, Odd]
    """Tokens by the kinds of ODD."""
    edges: dict[str, str]
    """For each of EDGES how it comes back: same, nfc (but for its normal form), or the text that came back."""
    trips: Counter[str]
    """How many of the texts came back: same, nfc, changed."""
    first_change: str
    """Where the first text that changed begins to differ, both ways; empty where none did."""


def study(tokenizer: Tokenizer, name: str, texts: Iterable[tuple[str, str, str]]) -> Study:
    """Measures a tokenizer on texts (language, source, text), on known edge cases, and its whole vocabulary."""
    densities: defaultdict[tuple[str, str], Density] = defaultdict(Density)
    trips, first_change = Counter[str](), ""
    for language, source, text in texts:
        text = valid_text(text)
        ids = tokenizer.fast.encode(text)
        density = densities[language, source]
        density.bytes += len(text.encode())
        density.characters += len(text)
        density.tokens += len(ids)
        back = tokenizer.decode(ids.tolist(), skip_special=False)
        trips[_trip(text, back)] += 1
        first_change = first_change or _difference(text, back)
    edges = {case: _edge(tokenizer, text) for case, text in EDGES.items()}
    habits = {
        kind: {text: [visible(tokenizer.token_bytes[id]) for id in tokenizer.encode(text)] for text in some}
        for kind, some in HABITS.items()
    }
    return Study(
        name=name,
        entries=tokenizer.vocab_size,
        form=_form(tokenizer),
        encoder=tokenizer.fast.name,
        special=tokenizer.special,
        named=tokenizer.named_texts(),
        densities=dict(densities),
        habits=habits,
        odd=odd_tokens(tokenizer),
        edges=edges,
        trips=trips,
        first_change=first_change,
    )


def odd_tokens(tokenizer: Tokenizer) -> dict[str, Odd]:
    """The tokens that need a look, by kind; added tokens are left aside."""
    found: dict[str, list[bytes]] = {kind: [] for kind in ODD}
    reach, folded = _Reach(tokenizer), defaultdict[str, list[bytes]](list)
    for id in sorted(set(tokenizer.backend.get_vocab(with_added_tokens=False).values()) - tokenizer.added_ids):
        spelled = tokenizer.token_bytes[id]
        if not reach.reaches(id, spelled):
            found["unreachable"].append(spelled if tokenizer.byte_level else tokenizer.token(id).encode())
        try:
            text = spelled.decode()
        except UnicodeDecodeError:
            if len(spelled) > 1:
                found["across" if _crosses(spelled) else "part"].append(spelled)
            continue
        folded[unicodedata.normalize("NFKC", text)].append(spelled)
        repeats = len(text) >= REPEATED and len(set(text)) == 1
        if repeats or len(text) >= LONG:
            found["repeated" if repeats else "long"].append(spelled)
    for text, twins in folded.items():
        found["folded"] += [spelled for spelled in twins if len(twins) > 1 and spelled != text.encode()]
    return {kind: Odd.of(spelled) for kind, spelled in found.items()}


def visible(spelled: bytes) -> str:
    """Bytes as they can be shown: blanks and controls by a sign, parts of characters in hexadecimal, long runs ×n."""
    text = spelled.decode("utf-8", "surrogateescape")
    shown = "".join(_SIGNS.get(one) or (one if one.isprintable() else _code(one)) for one in text)
    return _RUN.sub(lambda run: f"{run[1]}×{len(run[0])}", shown)


class _Reach:
    """Whether some text has a token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.fast.encode
        self._spellings = tokenizer.backend.id_to_token
        self._byte_level = tokenizer.byte_level
        merges = json.loads(tokenizer.backend.to_str())["model"].get("merges") or []
        pairs = (merge if isinstance(merge, list) else merge.split(" ", 1) for merge in merges)
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    def reaches(self, id: int, spelled: bytes) -> bool:
        """Tried in several surroundings; a part of a character is joined by the merges alone."""
        try:
            text = spelled.decode()
        except UnicodeDecodeError:
            return not set(spelled) & _NEVER and (not self._byte_level or self._joins(self._spellings(id) or ""))
        return any(id in self._encode(context.format(text)) for context in _CONTEXTS)

    def _joins(self, spelling: str) -> bool:
        parts = list(spelling)
        while len(parts) > 1:
            ranked = [
                (rank, at) for at, pair in enumerate(pairwise(parts)) if (rank := self._ranks.get(pair)) is not None
            ]
            if not ranked:
                return False
            at = min(ranked)[1]
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return True


def _form(tokenizer: Tokenizer) -> str:
    model = json.loads(tokenizer.backend.to_str())["model"]
    of_bytes = "byte-level " if tokenizer.byte_level else "SentencePiece " if model.get("byte_fallback") else ""
    return of_bytes + str(model["type"])


def _crosses(spelled: bytes) -> bool:
    """Whether bytes that are no text belong to more than one character."""
    return any(byte & 0xC0 != 0x80 for byte in spelled[1:])


def _edge(tokenizer: Tokenizer, text: str) -> str:
    back = tokenizer.decode(tokenizer.encode(text), skip_special=False)
    trip = _trip(text, back)
    return back if trip == "changed" else trip


def _trip(text: str, back: str) -> str:
    if back == text:
        return "same"
    return "nfc" if back == unicodedata.normalize("NFC", text) else "changed"


def _difference(text: str, back: str) -> str:
    if _trip(text, back) != "changed":
        return ""
    at = next((at for at, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    before, after = (visible(one[max(0, at - 8) : at + 16].encode()) for one in (text, back))
    return f"{before} → {after}"


def _code(one: str) -> str:
    code = ord(one)
    return f"<{code - 0xDC00:02X}>" if 0xDC80 <= code <= 0xDCFF else f"<U+{code:04X}>"
