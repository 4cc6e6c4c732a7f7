"""What is noise in spoken text, as rules. A rule takes out only what stands where no meaning can hang on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from danlu.text.lexicon import words

Noise = Literal["fillers", "repeats", "punctuation"]
Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """Asked where one of the `signs` stands; with `opening` only in a turn that answers nobody."""

    noise: Noise
    signs: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: Replacement
    opening: bool = False


_PAUSE = r"[，,、。.…~～ —-]"
_CLAUSE = r"(?:^|(?<=[，,。！!？?；;…\n]))"
# 嗯 before these agrees however it is drawn out: 嗯……好的.
_ASSENT = (
    "(?!好|对|是|行|可以|没错|没事|没问题|没关系|不客气|当然|确实|的确|知道|明白|了解|理解|懂|谢谢|感谢|有道理|同意"
    "|应该的|有的|会的|能的|我(?:也|会|能|确实|知道|明白|了解|理解|懂|同意|觉得也|可以|试)|你说得|你说的|您说|听你)"
)
_UM = r"(?:[Uu]m+|[Uu]h+|[Uu]hm+|[Ee]rm+|[Hh]mm+)\b(?![-'’]| ?(?:huh|oh)\b)"
_NO_COMMA = frozenset(
    words("i we you he she they it and but so or the a an to of in on at for that is was are were be")
)

_CHARACTERS = "我你您他她它咱这那就在和跟还因但也都把被让给从到为如虽而"
_WORDS = "就是说|就是|然后|但是|因为|所以|如果|可是|不过|其实|觉得|已经"
# 我们 may end one clause and begin the next (理解我们，我们该做什么), so these count at a clause's start alone.
_SUBJECTS = "我们|你们|他们|她们|咱们|这个|那个|我觉得|我想|我是|现在|[我你您他她它这那就因但所]"
_EN = "the|to|of|and|but|if|because|we|they|she|your|our|their|with"  # he he, my my: said on purpose


def _restart(found: re.Match[str]) -> str:
    """What comes after an opening word that is gone begins as that word did."""
    return found["next"].upper() if found["gone"][0].isupper() else found["next"]


def _without_commas(found: re.Match[str]) -> str:
    """I, um, think → I think; but yes, um, I do → yes, I do."""
    left = found["left"]
    together = left.lower() in _NO_COMMA or left.endswith(("'s", "’s", "n't", "n’t"))
    return f"{left} " if together else f"{left}, "


def _rule(noise: Noise, signs: str, pattern: str, replacement: Replacement = "", opening: bool = False) -> Rule:
    return Rule(noise, words(signs) or ("",), re.compile(pattern), replacement, opening)


RULES = (
    # 呃逆 and 打呃 are hiccups.
    _rule("fillers", "呃", rf"(?<!打)呃+(?!逆){_PAUSE}*"),
    _rule("fillers", "额 唔", rf"{_CLAUSE}(?:额+|唔+){_PAUSE}+(?=\S)"),
    _rule("fillers", "额额", rf"{_CLAUSE}额额+"),
    # Drawn out or in the middle of a turn 嗯 hesitates; with a comma at the turn's start it agrees to what was said.
    _rule("fillers", "嗯", rf"^嗯++(?:…|\.\.|。。|——|~|～|、){_PAUSE}*+{_ASSENT}(?=\S)"),
    _rule("fillers", "嗯", rf"^嗯++{_PAUSE}++{_ASSENT}(?=\S)", opening=True),
    _rule("fillers", "嗯", rf"(?<=[，,。；;…\n])嗯++{_PAUSE}++{_ASSENT}(?=\S)"),
    _rule("fillers", "嗯", r"(?<=[我你您他她它们])嗯+(?=[想觉认要会去来知不能是也就])"),
    _rule("fillers", "嗯嗯嗯", "嗯{3,}", "嗯嗯"),
    _rule("fillers", "啊啊", rf"{_CLAUSE}啊{{2,}}{_PAUSE}+(?=\S)"),
    _rule("fillers", "啊啊", "啊{2,}", "啊"),
    _rule("fillers", "那个 这个", rf"{_CLAUSE}(?:那个|这个){{2,}}{_PAUSE}*(?=\S)"),
    _rule("fillers", "那个 这个", rf"{_CLAUSE}(?:那个|这个)…{_PAUSE}*(?=\S)"),
    _rule("fillers", "那个", rf"^那个{_PAUSE}+(?=\S)"),
    _rule("fillers", "就是", r"(?<=[，,])就是[，,…]+(?=\S)"),
    _rule("fillers", "um uh hm erm", rf"(?P<left>[\w'’]+), ?{_UM}(?:,|\.\.\.|…) ", _without_commas),
    _rule("fillers", "Um Uh um uh Hm hm Erm erm", rf"^(?P<gone>{_UM})[,.… -]+(?P<next>\w)", _restart),
    _rule("fillers", "um uh hm erm", rf"(?<=[a-zA-Z,.!?…]) {_UM}(?:,|\.\.\.|…)(?= \w)"),
    _rule("fillers", "um uh hm erm", rf"(?:(?<=\bI)|(?<=\b(?:the|and|but))|(?<=\bto)) {_UM}(?= \w)"),
    _rule("fillers", "know, like,", r"(?<=[A-Za-z'’]), (?:you know|like), ", " "),
    _rule("fillers", "know, mean,", r"^(?P<gone>[Yy]ou know|I mean), +(?P<next>\w)", _restart),
    _rule("repeats", "", rf"([{_CHARACTERS}])\1\1+", r"\1"),
    _rule("repeats", "", rf"({_WORDS})(?:[，,、…]*\1)+", r"\1"),
    _rule("repeats", "", rf"{_CLAUSE}({_SUBJECTS})(?:[，,、…]*\1(?!\1))+", r"\1"),
    _rule("repeats", "", rf"(?<![^\s(\"'“‘])({_EN})(?:,? \1\b)+(?![-'’])", r"\1"),
    _rule("repeats", "", r"(?<=[a-z] )(an?) \1(?= [a-z])", r"\1"),
    _rule("repeats", "The", r"\bThe(?: the\b)+", "The"),
    _rule("repeats", "I", r"\bI(?:,? I\b)+(?=['’ ])", "I"),
    _rule("punctuation", "。。", "。{3,}", "……"),
    _rule("punctuation", "。。", "。。", "。"),
    _rule("punctuation", "………", "…{3,}", "……"),
    _rule("punctuation", "，， 、、 ；； ：：", r"([，、；：])\1+", r"\1"),
    _rule("punctuation", "！！ ？？ ～～", r"([！？～])\1+", r"\1"),
    _rule("punctuation", "!! ??", r"(?<=[^\W_])([!?])\1+(?=[\s\"'”’)）]|[^\x00-\x7f]|$)", r"\1"),
    _rule("punctuation", ",,", r"(?<=\w),,+(?=\s|[^\x00-\x7f])", ","),
    _rule("punctuation", "。 ！ ？", r"[，,、]+(?=[。！？])"),
    _rule("punctuation", "。 ！ ？", r"(?<=[。！？])[，,。、]+"),
)

_SIGNS = (
    *words("呃 嗯 啊啊 就是， 就是, 就是… know, mean, Hm hmm Erm erm ,, !! ??"),
    *(" like,", "The the", "I I", "I, I", " a a ", " an an "),
)
_PATTERNS = (r"[Uu][mh]+[ ,.…-]", rf"({_EN}),? \1\b")
_HAN_PATTERNS = (
    "[额唔][额唔，,、。.…~～ —-]",
    "[那这]个[那这，,、。.…~～ —-]",
    "[，、；：。！？～…,][，、；：。！？～…,]",
    rf"([{_CHARACTERS}])\1\1",
    rf"({_WORDS})[，,、…]*\1",
    r"([我你您他她它这那就因但所])[，,、…]*\1",
    r"(我们|你们|他们|她们|咱们|我觉得|我想|我是|现在)[，,、…]*\1",
)
_ASCII = tuple(map(re.compile, _PATTERNS))
_ALL = tuple(map(re.compile, (*_HAN_PATTERNS, *_PATTERNS)))


def suspicious(text: str) -> bool:
    """Whether a rule may change the text; far faster than asking all of them, and mostly False."""
    patterns = _ASCII if text.isascii() else _ALL
    return any(sign in text for sign in _SIGNS) or any(pattern.search(text) for pattern in patterns)
