"""Where people live: addresses down to the house number, by dictionary and form."""

from __future__ import annotations

import re
from collections.abc import Iterator

from danlu.text.lexicon import any_of, words
from danlu.text.ops.privacy.invented import EN_STREETS, ZH_CITIES
from danlu.text.ops.privacy.places import PROVINCE_OF, STATES
from danlu.text.ops.privacy.spans import Span, before

_HAN = r"[\u3400-\u4dbf\u4e00-\u9fff]"
_NUMBER = r"(?:\d{1,5}|[一二三四五六七八九十百]{1,5})"
_PART = (
    r"(?:[甲乙丙附]?[\dA-Za-z]{1,5}(?:-\d{1,4})?|[一二三四五六七八九十百]{1,4})"
    "(?:号楼|号院|号|栋|幢|座|楼|单元|室|层|户|门)"
)
# A street or an estate with the number of a house, and what is more exact than that.
_SIGN = re.compile("[号弄栋幢]")
_STREET = re.compile(
    "(?:路|街|道|巷|弄|胡同|里|村|庄|园|苑|小区|社区)"
    rf"[东西南北中]?(?:{_HAN}段)? ?[甲乙附]?{_NUMBER}(?:[-之]\d{{1,4}})?\Z"
)
_INSIDE = re.compile(rf"[号弄栋幢][院楼]?((?:[ -]?{_PART}|[ -]?\d{{1,4}}(?:-\d{{1,4}})*(?![\d.]))*)")
_LEFT = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\d（）()-]*\Z")
_PLACE = any_of(PROVINCE_OF)
_DIVISION = re.compile(rf"{_HAN}{{1,5}}?(?:自治[区州县]|[省市区县旗镇乡])")
_STARTS = re.compile(r".*(?:[在到是于至住为去从往寄送使]|地址|位置|家里)")
_CUE = re.compile(r"(?:地址|住址|住所|住在|家住|位于|寄[到往给至]|送[到往至]|在)[:：是为 ]*\Z")

_KINDS = any_of(
    words("""
        Street St Avenue Ave Road Rd Boulevard Blvd Lane Ln Drive Dr Court Ct Place Pl Terrace Way Square
        Parkway Pkwy Highway Hwy Circle Crescent
    """)
).pattern
_EN_ADDRESS = re.compile(
    r"\d{1,5}[A-Za-z]? (?:(?:[NSEW]\.?|North|South|East|West) )?(?P<street>[A-Z][a-z]+|\d{1,3}(?:st|nd|rd|th))"
    rf"(?: [A-Z][a-z]+){{0,2}} (?:{_KINDS})\b(?:\.(?=,))?"
    r"(?:,? (?:(?:Apt|Apartment|Suite|Ste|Unit)\.? ?#?|# ?)\w{1,5})?"
    r"(?:,\s?[A-Z][a-z]+(?: [A-Z][a-z]+){0,2}(?=,| [A-Z]{2}\b|\n|\.|$))?"  # town
    rf"(?:,?\s(?:{any_of(STATES).pattern}|[A-Z]{{2}})\b)?(?:,? \d{{5}}(?:-\d{{4}})?)?"
)
_NO_HOUSE = "_.,/$£€-"
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d ")
_TIME = re.compile(r"\b(?:in|since|by|of|the|after|before|until|from|during|early|late)\s\Z", re.IGNORECASE)


def addresses(text: str) -> Iterator[Span]:
    """Addresses down to a house: towns, streets and sights by themselves stay."""
    if not text.isascii():
        yield from _chinese(text)
    yield from _english(text)


def _chinese(text: str) -> Iterator[Span]:
    for sign in _SIGN.finditer(text):
        at = sign.start()
        street, inside = _STREET.search(before(text, at, 24)), _INSIDE.match(text, at)
        if street is None or inside is None:
            continue
        house = at - len(street[0])
        window = _LEFT.search(before(text, house, 32))
        left = window[0] if window else ""
        name = left[_beginning(left) :]
        start = house - len(name)
        exact = inside[1] or _PLACE.match(name) or _DIVISION.match(name) or _CUE.search(before(text, start, 6))
        if name and exact and not name.startswith(ZH_CITIES):
            yield Span(start, inside.end(), "address", text[start : inside.end()].replace(" ", ""))


def _beginning(left: str) -> int:
    """Where in the text before a house number its address begins: behind 在, 是, 地址, or at a known place."""
    said, place = _STARTS.match(left), _PLACE.search(left)
    if place and not (said and _PLACE.search(left, said.end())):
        return place.start()
    return said.end() if said else 0


def _english(text: str) -> Iterator[Span]:
    for found in _EN_ADDRESS.finditer(text):
        left = before(text, found.start())
        if ((left[-1:].isalnum() or left[-1:] in _NO_HOUSE) and left) or found["street"] in EN_STREETS:
            continue
        if _YEAR.match(found[0]) and "," not in found[0] and (_TIME.search(left) or not left):
            continue
        yield Span(found.start(), found.end(), "address", " ".join(found[0].replace(",", " ").split()).lower())
