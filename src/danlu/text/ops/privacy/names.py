"""Names of people, by dictionary and by the words around them; a name found once is found wherever a record has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from danlu.text.lexicon import any_of, words
from danlu.text.ops.privacy.invented import EN_FIRST, EN_LAST, ZH_FOREIGN, ZH_GIVEN
from danlu.text.ops.privacy.people import ALL_SURNAMES, COMPOUND_SURNAMES, FIRST_NAMES, GIVEN, NOT_GIVEN, SURNAMES
from danlu.text.ops.privacy.spans import Span

_HAN = r"[\u3400-\u4dbf\u4e00-\u9fff]"
_FOREIGN = re.compile(f"{_HAN}{{1,6}}(?:[·•]{_HAN}{{1,8}})+")
_FIELDS = frozenset(words("姓名 收件人 收货人 寄件人 联系人 负责人 经办人 申请人 患者 家长 户主 代表人"))
_FIELD_ENDS = re.compile(r"\**[:：|｜]\s*\**\s*")
_SAID = frozenset(words("我叫 本人叫 字叫 本名叫 字是 本名是 真名是 全名是 姓名是"))  # 名字叫, 名字是
_WEAK = frozenset(words("我是 本人是 联系人是 负责人是 联系人为 负责人为 他叫 她叫"))
_TITLES = frozenset(words("先生 女士 小姐 老师 医生 教授 律师 同学 师傅 经理 主任 护士"))
_ZH_CUE = any_of(_FIELDS | _SAID | _WEAK | _TITLES)
_ZH_ENDS = re.compile(rf"(?!{_HAN})|今年|来自|电话|手机|先生|女士|[是在我的和男女性年住毕]|出生|身份|号码")
_BEFORE_NAMES = frozenset("是和与跟由请让给为对向叫的位找问见被把同及了过着")
_NO_NAMES = frozenset(
    words("""
        张三 李四 王五 赵六 马上 高兴 安静 方向 金融 白天 黄金 万元 马达 明星 严重 严格 任意 安全 平安 温柔 王子
        文学 包容 中华
    """)
)

_WORD = r"[A-ZÀ-Þ][a-zß-ÿ]+(?:['’-][A-ZÀ-Þ][a-zß-ÿ]+)?"
_NAME = rf"(?P<name>{_WORD}(?: [A-Z]\.)?(?: {_WORD}){{0,2}})"
_PLAIN = re.compile(_NAME)
_TITLED = re.compile(rf"\.? {_NAME}")
_CLAUSE = re.compile(rf"{_NAME}(?=[,.!?;:)\n]| (?:and|from|here|speaking|calling)\b|\Z)")
_LINE = re.compile(rf"\**[:：]\**[ \t]*{_NAME}[ \t]*(?=\n|\Z)")
_CLOSING = re.compile(rf",?\s*\n\s*{_NAME}[ \t]*(?=\n|\Z)")
_EN_CUES = {
    **dict.fromkeys(("y name is ", "y name's ", "y name’s "), (_PLAIN, True)),
    **dict.fromkeys(("Mr", "Mrs", "Ms", "Mx", "Dr", "Prof"), (_TITLED, True)),
    **dict.fromkeys(("Miss", "Professor"), (_TITLED, False)),
    **dict.fromkeys(("I'm ", "I’m ", "I am ", "all me ", "his is ", "Dear "), (_CLAUSE, False)),
    **dict.fromkeys(("Name", "name", "Contact"), (_LINE, False)),
    **dict.fromkeys(
        ("egards", "incerely", "hanks", "hank you", "Best", "ishes", "ours", "heers", "Love"), (_CLOSING, False)
    ),
}
_EN_CUE = any_of(_EN_CUES)
_NO_PERSON = frozenset(
    words("""
        President Speaker Chairman Secretary Pepper Who Universe America World Right Wrong Nobody Everything
        Everyone The And But For Not Very So Just Still Also Really Here There Sorry Happy Glad Sure Santa God
        Sir Madam Your My Clean Robot Strange Evil Frankenstein Dolittle Seuss Strangelove Emeritus
    """)
)


def names(texts: Iterable[str]) -> set[str]:
    """The full names in a record's texts; first names alone where people say them of themselves."""
    return {name for text in texts for name in (*_chinese(text), *_english(text))}


def name_spans(text: str, pattern: re.Pattern[str]) -> Iterator[Span]:
    """Where names stand that `pattern` (of `names_pattern`) has."""
    for found in pattern.finditer(text):
        yield Span(found.start(), found.end(), "name", found[0])


def names_pattern(known: set[str]) -> re.Pattern[str] | None:
    """What finds these names in a text, and the first names of full English ones."""
    firsts = {name.split()[0] for name in known if " " in name}
    chosen = sorted(known | {name for name in firsts if name in FIRST_NAMES}, key=lambda name: (-len(name), name))
    words = [re.escape(name) if _is_han(name[0]) else rf"\b{re.escape(name)}\b" for name in chosen]
    return re.compile("|".join(words)) if words else None


def _chinese(text: str) -> Iterator[str]:
    for found in () if text.isascii() else _ZH_CUE.finditer(text):
        cue, at = found[0], found.end()
        if cue in _TITLES:
            yield from _name_before(text, found.start(), cue)
        elif cue in _WEAK:
            yield from _name_after(text, at, sure=False)
        elif colon := _FIELD_ENDS.match(text, at) if cue in _FIELDS else found:
            at = colon.end() + (cue in _SAID and text.startswith("做", at))
            yield from _foreign(text, at) or _name_after(text, at, sure=True)


def _foreign(text: str, at: int) -> list[str]:
    """A name as 约翰·史密斯 that begins here."""
    found = _FOREIGN.match(text, at)
    return [found[0]] if found and found[0].split("·")[0] not in ZH_FOREIGN else []


def _name_after(text: str, at: int, sure: bool) -> list[str]:
    """The name that begins here. A given name goes as far as a word or sign that ends it."""
    surname = _surname(text[at : at + 2], ALL_SURNAMES if sure else SURNAMES)
    for size in (2, 1):
        name = text[at : at + len(surname) + size]
        given = name[len(surname) :]
        if not surname or len(given) < size or not _plausible(name, given, anything=sure):
            continue
        if _ZH_ENDS.match(text, at + len(name)) or (sure and size == 2 and GIVEN.issuperset(given)):
            return [name]
    return []


def _name_before(text: str, at: int, title: str) -> list[str]:
    """The name that ends here, the longest. A short one may be a word, so what stands before it must fit."""
    if "·" in text[max(0, at - 6) : at]:
        return []
    for size in (4, 3, 2):
        name, left = text[max(0, at - size) : at], text[max(0, at - size - 1) : at - size]
        if size == 2 and left and _is_han(left) and left not in _BEFORE_NAMES:
            continue
        surname = _surname(name[:2], SURNAMES)
        given = name[len(surname) :]
        begins = title in ("先生", "女士") and len(given) == 2 and not (left and _is_han(left))
        if len(name) == size and surname and 1 <= len(given) <= 2 and _plausible(name, given, anything=begins):
            return [name]
    return []


def _surname(start: str, known: frozenset[str]) -> str:
    return start if start in COMPOUND_SURNAMES else start[:1] if start[:1] in known else ""


def _plausible(name: str, given: str, anything: bool) -> bool:
    if name in _NO_NAMES or given in (*_TITLES, *ZH_GIVEN[len(given)]) or not all(map(_is_han, given)):
        return False
    return NOT_GIVEN.isdisjoint(given) if anything else GIVEN.issuperset(given)


def _english(text: str) -> Iterator[str]:
    for cue in _EN_CUE.finditer(text):
        pattern, sure = _EN_CUES[cue[0]]
        if found := pattern.match(text, cue.end()):
            yield from _person(found["name"], sure)


def _person(name: str, sure: bool) -> list[str]:
    words = [word for word in name.split() if not word.endswith(".")]
    known = sure or words[0] in FIRST_NAMES
    return [name] if known and _NO_PERSON.isdisjoint(words) and not _invented(words) else []


def _invented(words: list[str]) -> bool:
    return words[-1] in EN_LAST or words[0] in EN_FIRST


@cache
def _is_han(character: str) -> bool:
    return "\u3400" <= character <= "\u4dbf" or "\u4e00" <= character <= "\u9fff"
