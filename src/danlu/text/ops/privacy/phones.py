"""Phones: by form, and by the words before them where form alone is weak."""

from __future__ import annotations

import re
from collections.abc import Iterator

from danlu.text.lexicon import any_of, words
from danlu.text.ops.privacy.spans import Span, alone, before, digits_of, is_ascii_letter

# Runs of digits that a phone, an identity card or a bank card cannot do without, in the shape of a text.
_GAP = rb"(?:[-. )]|\xc2\xa0|\xe2\x80.|\xe2\x88\x92|\xef\xbc.|\xe3\x80\x80)"
ANY_NUMBER = re.compile(rb"000(?:0000|0?" + _GAP + rb"{1,3}0000)", re.DOTALL)
ANY_ABROAD = re.compile(rb"\+0{1,3}[ .(-]{1,2}0")

_MOBILE = re.compile(r"1[3-9]\d(?:\d{8}|([ -])\d{4}\1\d{4}|[ -]\d{8})")
# Segments that were given to an operator; 154 was not, so pseudonyms have it (pseudonyms.py).
_SEGMENT = re.compile(r"1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])")
_CHINA = re.compile(r"(?:\(\+?(?:00)?86\)|(?:\+|00)86|(?<![\d.-])86)[ -]?$")
_AMOUNT = re.compile(r" ?(?:[美日欧港韩]?元|块钱|[万亿]|字节|USD|RMB|CNY|dollars|bytes)", re.IGNORECASE)
_FIXED = re.compile(r"0(?:10|2[0-57-9]|[3-9]\d{2})(\) ?|[- ]{0,3})[2-8](?:\d{2,3}[- ]\d{4}|\d{6,7})")
_EXTENSION = re.compile(r"(?:-| ?转 ?| ?ext\.? ?)\d{1,6}(?![\d-])", re.IGNORECASE)
_AMERICAN = re.compile(r"[2-9]\d{2}(\) ?|[-. ])[2-9]\d{2}[-. ]\d{4}")
_ABROAD = re.compile(r"\+([1-9]\d{0,2})[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,5}){1,4}")
# A local number, or one in an unusual layout, straight behind a word for it; or several.
_NUMBERED = any_of(
    (
        *words("电话 座机 传真 联系方式 Phone phone Tel tel Fax fax"),
        *(f"{kind} number" for kind in words("Phone phone Contact contact Fax fax Cell cell")),
        *(
            f"{verb} {whom}"
            for verb in words("Call call Reach reach Text text")
            for whom in words("me us them him her")
        ),
    )
)
_LISTED = re.compile(r"\+?\(?\d[\d ()-]{5,17}\d")
_LIST = re.compile(
    rf"(?:号码?)?(?:[:：为是 ]| is| at| on|\.){{0,3}}(?P<list>(?:{_LISTED.pattern}[、，,;；和或 ]{{0,2}})+)"
)
_FREE_LINES = frozenset(words("400 800 822 833 844 855 866 877 888 900"))
_COUNTRIES = frozenset(
    words("""
        1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66
        81 82 84 86 90 91 92 93 94 95 98 212 213 216 218 220 221 233 234 251 254 255 256 260 263 264 350 351 352
        353 354 355 356 357 358 359 370 371 372 373 374 375 376 380 381 382 385 386 387 389 420 421 423 501 502
        503 504 505 506 507 509 590 591 592 593 594 595 596 597 598 670 673 675 676 679 852 853 855 856 880 886
        960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 992 993 994 995 996 998
    """)
)
_PHONE_CUE = re.compile(
    r"电话|手机|座机|热线|传真|联系|号码|致电|拨打|微信|tel|phone|mobile|call|fax|whatsapp|cell", re.IGNORECASE
)


def phones(text: str) -> Iterator[Span]:
    """Mobile and fixed phones of China, American ones, and others with their country's number.

    Free lines (400, 800) belong to companies and stay.
    """
    for found in _MOBILE.finditer(text):
        start = found.start()
        if country := _CHINA.search(before(text, start)):
            start -= len(country[0])
        number, end = digits_of(found[0]), found.end()
        if not _SEGMENT.match(found[0]) or _round(number) or _AMOUNT.match(text, end):
            continue
        if alone(text, start, end, _PHONE_CUE):
            yield Span(start, end, "mobile", number)
    yield from phones_abroad(text)
    for found in _FIXED.finditer(text):
        start, end, separated = found.start(), found.end(), bool(found[1])
        if bracketed := found[1].startswith(")"):
            start -= 1
            separated = text[start : start + 1] == "("
        number = digits_of(found[0])
        if (not separated and not _PHONE_CUE.search(before(text, start))) or (bracketed and not separated):
            continue
        if extension := _EXTENSION.match(text, end):
            end = extension.end()
        if len(number) in (11, 12) and alone(text, start, end, _PHONE_CUE):
            yield Span(start, end, "phone", number)
    for found in _AMERICAN.finditer(text):
        start, end, separator = found.start(), found.end(), found[1]
        if separator.startswith(")"):
            start -= 1
            if text[start : start + 1] != "(":
                continue
        elif separator != "-" and not _PHONE_CUE.search(before(text, start)):
            continue
        number = digits_of(found[0])
        if number[:3] not in _FREE_LINES and not _fictional(number) and alone(text, start, end, _PHONE_CUE):
            yield Span(start, end, "phone", number)
    yield from _numbered(text)


def _numbered(text: str) -> Iterator[Span]:
    for cue in _NUMBERED.finditer(text):
        numbers = _LIST.match(text, cue.end())
        if numbers is None or is_ascii_letter(before(text, cue.start(), 1)):
            continue
        for found in _LISTED.finditer(text, *numbers.span("list")):
            if text[found.end() : found.end() + 1].isdecimal() or before(text, found.start(), 1).isdecimal():
                continue
            number = digits_of(found[0])
            local = 7 <= len(number) <= 8 and number[0] in "2345678" and not number.startswith("400")
            known = (
                number[:3] in _FREE_LINES
                or number.startswith(("0", "1800", "400", "154", "86154"))
                or _fictional(number)
            )
            if local or (9 <= len(number) <= 15 and not known):
                yield Span(found.start(), found.end(), "phone", number)


def phones_abroad(text: str) -> Iterator[Span]:
    """Phones with + and the number of a country."""
    for found in _ABROAD.finditer(text):
        number = digits_of(found[0])
        code = next((number[:size] for size in (1, 2, 3) if number[:size] in _COUNTRIES), None)
        plain = found[0][1:].isdigit()
        mobile = code == "86" and number[2:3] == "1" and len(number) == 13
        if code is None or mobile or not (11 if plain else 9) <= len(number) <= 15 or _fictional(number):
            continue
        if alone(text, found.start(), found.end(), _PHONE_CUE) and before(text, found.start(), 1) not in (")", "]"):
            yield Span(found.start(), found.end(), "phone", number[1:] if code == "1" else number)


def _fictional(number: str) -> bool:
    """555-0100 to 555-0199 are kept free in every American area for films and books."""
    return number[-7:-2] == "55501"


def _round(number: str) -> bool:
    """Bounds and sizes in bytes, not phones: 13900000000, 2 ** 34."""
    return number.endswith("000000") or int(number).bit_count() == 1
