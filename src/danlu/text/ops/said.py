"""What users say of themselves: rules from words to tags, each with the confidence that it earned on real text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from danlu.text.lexicon import any_of
from danlu.text.ops.privacy.places import PROVINCE_OF, REGION_OF
from danlu.text.steps.dialogue import Tag

Value = Callable[[re.Match[str]], str | None]


@dataclass(frozen=True, slots=True)
class Saying:
    """`value` makes a tag's value of what `pattern` finds; None where it is none after all."""

    tag: Tag
    confidence: float
    value: Value
    pattern: re.Pattern[str]
    english: bool


_AGES = ((18, "0-17"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (65, "55-64"), (121, "65+"))
_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")}
_YEARS = r"(?P<age>\d{1,2}|[二三四五六七八九]?十[一二三四五六七八九]?)"
# 我18岁时, 我十岁那年: not now.
_NOW = r"(?!\s*(?:时|的?时候|那|以前|之前|以后|之后|就|起|开始|生日|左右就|前|后|半?的(?:时|孩子|儿子|女儿|弟|妹)))"
_A = r"(?:一个|一名|一位|个|名|位)?"
_STUDENT = (
    "在校|大[一二三四]|高[一二三]|初[一二三]|研[一二三]|大学|高中|初中|小学|中学|研究|博士|硕士|本科|专科|中专|留学"
)

# Said of somebody else, of a role, or of nobody: 如果我是, 不是, “我是.
NOT_SELF = re.compile(
    r"(?:如果|假如|假设|要是|想象|就像|好像|扮演|假装|例如|比如|以为|不|[“\"「『‘'《]|名为|叫做|希望|说|问|告诉|让"
    r"|\b(?:if|imagine|suppose|pretend|as if|like|said|says|not|that|whether))[\s,，:：]*\Z",
    re.IGNORECASE,
)


_ABOUT_SELF = re.compile(r"我|本人|坐标|男|女|I |I'|I’|i am|i'm|my |My |me ")  # in every text that a rule fits
_SELF = re.compile(r"\b(?:[Ii]|[Mm]y|[Mm]e|[Aa]s an?)\b")


def age_of(years: str) -> str | None:
    """The span of ages; None for what is no age."""
    if not years.isascii():
        tens, _, ones = years.partition("十")
        years = str(10 * _DIGITS.get(tens, 1) + _DIGITS.get(ones, 0))
    number = int(years)
    return next((name for below, name in _AGES if number < below), None) if number >= 3 else None


def _age(found: re.Match[str]) -> str | None:
    return age_of(found["age"])


def _always(value: str) -> Callable[[re.Match[str]], str]:
    return lambda found: value


def _gender(found: re.Match[str]) -> str:
    word = found["who"].lower()
    female = any(sign in word for sign in "女妈母妇") or word in (
        "f",
        "woman",
        "girl",
        "female",
        "lady",
        "mother",
        "mom",
    )
    return "female" if female or word in ("mum", "wife", "housewife") else "male"


def _province(found: re.Match[str]) -> str:
    return PROVINCE_OF[found["place"]]


def _region(found: re.Match[str]) -> str:
    return REGION_OF[found["place"]]


def _say(tag: Tag, confidence: float, value: Value, *pattern: str) -> Saying:
    source = "".join(pattern)
    return Saying(tag, confidence, value, re.compile(source), english="I" in source or "[Mm]y" in source)


# I am, and before what; the clause behind one that said how old I am has the same subject.
_AGED = r"我(?:今年|现在|已经)?[\d二三四五六七八九十]{1,3}岁[了，,]{1,2}"
_WE = rf"(?:我(?:现在|今年|目前|也)?(?:是|还是|就是|作为)|{_AGED}是){_A}"
_I = r"\bI(?:['’]m| am)(?: now| currently| recently)?"
_ZH_PLACE = f"(?P<place>{any_of(PROVINCE_OF).pattern})"
_EN_PLACE = rf"(?P<place>{any_of(REGION_OF).pattern})\b"
_ZH_WHO = "(?P<who>男生|男孩|男人|男的|男性|女生|女孩|女人|女的|女性|妈妈|母亲|宝妈|爸爸|父亲|宝爸|家庭主妇)"
_EN_WHO = r"(?P<who>woman|girl|female|lady|man|guy|boy|male|mother|mom|mum|father|dad|wife|husband|housewife)\b"
_DOES = "(?:市|省)?(?:工作|上班|上学|读书|读大学|生活|住|打工|这边|定居|租房|买房|开)"

_JOBS = "程序员|老师|教师|医生|护士|司机|大学生|研究生|高中生|学生|工程师|教授|警察|警官|律师|会计|员工|军人"

SAYINGS = (
    _say("age", 0.95, _age, rf"我(?:今年|现在|目前|已经|才|刚|刚满|快|都|也)?{_YEARS}(?:周)?岁{_NOW}"),
    _say("age", 0.9, _age, rf"(?:^|\n|本人|我)[，, ]?[男女]生?[，, ]?(?:今年)?{_YEARS}岁{_NOW}"),
    _say("age", 0.95, _age, rf"我是{_A}{_YEARS}岁的?[男女学大人青老妈爸上程打家]"),
    _say("age", 0.95, _age, r"\b[Ii](?:['’]m| am)(?: an?| only| now)? (?P<age>\d{1,2})[- ]years?[- ]old\b"),
    _say("age", 0.8, _age, r"\bI(?:['’]m| am) (?P<age>[1-9]\d)(?=[.!]|, | and )"),
    _say("age", 0.9, _age, r"\b[Ii] (?:just|recently) turned (?P<age>\d{1,2})\b(?!\d|%)"),
    _say("age", 0.95, _age, r"\b(?:I|[Mm]e) \((?P<age>\d\d) ?[FMfm]\)"),
    _say("gender", 0.95, _gender, r"\b(?:I|[Mm]e) \(\d\d ?(?P<who>[FMfm])\)"),
    _say("gender", 0.95, _gender, rf"{_WE}(?:{_YEARS}岁的?|单身|普通|离异|已婚|未婚|{_STUDENT})?的?", _ZH_WHO),
    _say("gender", 0.95, _gender, rf"{_WE}(?:普通|年轻)?的?(?P<who>[男女])的?(?:{_JOBS})(?!的)"),
    _say("gender", 0.95, _gender, r"(?:^|\n)(?:本人|我)?[，, ]?(?P<who>[男女])(?:生|孩)?[，, ](?:今年)?\d{2}"),
    _say("gender", 0.85, _always("female"), "我(?:的)?(?:老公|丈夫|男朋友|男友|婆婆|公公)"),
    _say("gender", 0.85, _always("male"), "我(?:的)?(?:老婆|妻子|媳妇|女朋友|女友|岳母|岳父|丈母娘)"),
    _say("gender", 0.9, _always("female"), "我(?:又|刚|已经|现在)?(?:怀孕|生完孩子|剖腹产|来月经|来例假|坐月子)"),
    _say("gender", 0.9, _gender, rf"{_I} an? (?:\d+[- ]years?[- ]old |single |young |old |married |\w+ing )?", _EN_WHO),
    _say("gender", 0.75, _always("female"), r"\b[Mm]y (?:husband|boyfriend)\b"),
    _say("gender", 0.75, _always("male"), r"\b[Mm]y (?:wife|girlfriend)\b"),
    _say("region", 0.95, _province, rf"坐标[:：是在 ]?{_ZH_PLACE}"),
    _say(
        "region", 0.9, _province, "(?:我|本人)(?:是|来自|家在|老家在|老家是|住在?|现居|现在在|目前在|人在|生活在|定居)",
        _ZH_PLACE, "(?!大学|话|菜|人民|银行|机场|站)",
    ),
    _say("region", 0.9, _province, f"我在{_ZH_PLACE}", _DOES),
    _say("region", 0.9, _region, rf"{_I}(?: originally)? from {_EN_PLACE}"),
    _say("region", 0.85, _region, rf"{_I} an? [^.,;:!?\n]{{1,40}} from {_EN_PLACE}"),
    _say("region", 0.9, _region, rf"\bI (?:currently |now )?live in (?:\w+, )?{_EN_PLACE}"),
    _say("region", 0.9, _region, rf"{_I} (?:based|living|located|working|studying) in (?:\w+, )?{_EN_PLACE}"),
    _say("group", 0.95, _always("student"), rf"{_WE}[^，。,\n]{{0,6}}?(?:{_STUDENT})的?学?生"),
    _say(
        "group", 0.85, _always("student"), "我(?:现在|今年|目前|刚|刚上|正在)?(?:上|读|在读|念)?",
        r"(?:大[一二三四]|高[一二三]|初[一二三]|研[一二三])(?=[，。,了在！\n]|的?学生)",
    ),
    _say("group", 0.9, _always("retired"), f"我(?:已经|刚|都|也|现在)?(?:是{_A})?退休(?!金|前)"),
    _say("group", 0.95, _always("parent"), f"我(?:是|作为)?{_A}(?:全职|二胎|新手)?宝[妈爸]"),
    _say("group", 0.85, _always("parent"), "我(?:的|家)?(?:儿子|女儿|孩子|宝宝|小孩|娃|闺女)(?!气|的?(?:爸|妈)|们说)"),
    _say("group", 0.95, _always("parent"), f"{_WE}(?:两个|三个)?孩子的?(?:妈|爸|母亲|父亲|家长)"),
    _say("group", 0.85, _always("teacher"), rf"{_WE}[^，。,\n]{{0,5}}?(?:老师|教师|班主任)(?!的|们|说)"),
    _say("group", 0.85, _always("medical"), rf"{_WE}[^，。,\n]{{0,4}}?(?:医生|护士|药师|医师)(?!的|说)"),
    _say("group", 0.9, _always("programmer"), rf"{_WE}[^，。,\n]{{0,4}}?(?:程序员|软件工程师|码农)"),
    _say("group", 0.9, _always("farmer"), f"{_WE}农民"),
    _say(
        "group", 0.85, _always("job_seeker"), "我(?:现在|目前|最近|也|还)*(?:正?在找工作|失业|待业)",
        r"(?!了?[一二三四五六七八九十半几两\d])",
    ),
    _say("group", 0.9, _always("student"), rf"{_I} an? (?:\w+[ -]){{0,5}}student\b"),
    _say("group", 0.95, _always("retired"), rf"{_I}(?: an?)? (?:newly |recently )?retired\b"),
    _say("group", 0.8, _always("parent"), r"\b[Mm]y (?:\w+[- ])?(?:son|daughter|kids|children|toddler)\b"),
    _say("group", 0.9, _always("parent"), rf"(?:{_I}|\b[Aa]s) an? (?:\w+ )?(?:mom|mum|mother|father|dad|parent)\b"),
    _say("group", 0.9, _always("teacher"), rf"{_I} an? (?:\w+[ -]){{0,5}}teacher\b"),
    _say("group", 0.9, _always("medical"), rf"{_I} an? (?:\w+ ){{0,2}}(?:doctor|nurse|physician|pharmacist)\b"),
    _say("group", 0.9, _always("programmer"), rf"{_I} an? (?:\w+ ){{0,2}}(?:programmer|software engineer|developer)\b"),
    _say("group", 0.9, _always("job_seeker"), rf"{_I} (?:unemployed|looking for an? (?:new )?job)\b"),
)  # fmt: skip


def sayings(text: str) -> Iterator[tuple[Tag, str, float]]:
    """(tag, value, confidence) of everything in a turn that a user says of themselves."""
    if not _ABOUT_SELF.search(text):
        return
    first, _, given = text.partition("\n")
    if given and first.isascii() and not _SELF.search(first):
        text = first  # an instruction, and then the text that it is about
    english = bool(_SELF.search(text))
    for saying in SAYINGS:
        if saying.english and not english:
            continue
        for found in saying.pattern.finditer(text):
            value = saying.value(found)
            if value is not None and not NOT_SELF.search(text[max(0, found.start() - 12) : found.start()]):
                yield saying.tag, value, saying.confidence
