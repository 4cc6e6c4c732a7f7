"""Identity cards and bank cards: by their checksums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from danlu.text.ops.privacy.spans import Span, alone, before, digits_of

_ID_CARD = re.compile(r"[1-8]\d{5}([ -]?)(?:18|19|20)\d{6}\1\d{3}[\dXx]")
_PROVINCES = frozenset(map(str, (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55),
                                 *range(61, 66), 71, 81, 82, 83)))  # fmt: skip
_ID_WEIGHTS = tuple(2**power % 11 for power in range(17, 0, -1))

ANY_BANK_CARD = re.compile(rb"0{13}|0000[ -]0000[ -]0000|0000[ -]000000[ -]0")  # in the shape of a text
_BANK_CARD = re.compile(r"\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|3[47]\d{2}([ -])\d{6}\2\d{5}")
_ISSUERS = tuple(  # prefixes and lengths (ISO/IEC 7812; China UnionPay, its members' older 9558, 9559)
    (re.compile(prefixes), lengths)
    for prefixes, lengths in (
        ("62|955[89]", range(16, 20)),
        ("4", (13, 16, 19)),
        ("5[1-5]|2[2-7]", (16,)),
        ("3[47]", (15,)),
        ("30[0-5]|36|38", (14,)),
        ("35|6011|6[45]", range(16, 20)),
    )
)
_CARD_CUE = re.compile(r"卡|账[号户]|帐[号户]|转[到账给]|打[到给]|card|account|visa|pay", re.IGNORECASE)


def id_cards(text: str) -> Iterator[Span]:
    """Identity cards of China (GB 11643): region, date of birth and the check digit of ISO 7064 MOD 11-2 are right."""
    for found in _ID_CARD.finditer(text):
        number = found[0].replace(" ", "").replace("-", "").upper()
        if is_id_card(number) and alone(text, found.start(), found.end()):
            yield Span(found.start(), found.end(), "id_card", number)


def is_id_card(number: str) -> bool:
    """Whether 18 characters are an identity card of China."""
    return number[:2] in _PROVINCES and number[17] == id_check_digit(number) and _is_date(number[6:14])


def id_check_digit(number: str) -> str:
    """The 18th character that the first 17 demand."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11]


def bank_cards(text: str) -> Iterator[Span]:
    """Payment cards: an issuer's prefix and length, the check digit of Luhn, and a card's layout or a word for it."""
    for found in _BANK_CARD.finditer(text):
        number = digits_of(found[0])
        grouped = len(number) != len(found[0])
        if not is_bank_card(number):
            continue
        known = _CARD_CUE.search(before(text, found.start(), 24))
        if (known or ((grouped or number.startswith(("62", "955"))) and len(number) > 15)) and alone(
            text, found.start(), found.end()
        ):
            yield Span(found.start(), found.end(), "bank_card", number)


def is_bank_card(number: str) -> bool:
    """Whether digits are a payment card's: issuer, length, check digit. Numbers of one or two digits are examples."""
    issued = any(len(number) in lengths and prefix.match(number) for prefix, lengths in _ISSUERS)
    return issued and len(set(number)) > 2 and luhn(number) == 0


def luhn(number: str) -> int:
    """The sum of Luhn modulo 10 (ISO/IEC 7812-1): 0 for a right number."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return (sum(map(int, number[-1::-2])) + sum(doubled)) % 10


def _is_date(digits: str) -> bool:
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return True
