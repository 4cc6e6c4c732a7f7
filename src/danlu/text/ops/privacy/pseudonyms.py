"""Values of the same form that belong to nobody, the same for the same value: a keyed hash, no table to keep."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from danlu.text.ops.privacy.cards import id_check_digit, luhn
from danlu.text.ops.privacy.invented import (
    EN_FIRST,
    EN_LAST,
    EN_STREETS,
    EN_TOWNS,
    ZH_CITIES,
    ZH_DISTRICTS,
    ZH_FOREIGN,
    ZH_GIVEN,
    ZH_STREETS,
)  # fmt: skip
from danlu.text.ops.privacy.people import COMPOUND_SURNAMES, FIRST_NAMES
from danlu.text.steps.privacy import Datum

_DIGIT = re.compile(r"[0-9０-９Xx]")


class _Draw:
    """Choices that follow from a value and the seed."""

    def __init__(self, value: str, seed: str) -> None:
        key = hashlib.blake2b(seed.encode()).digest()
        self._left = int.from_bytes(hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=key).digest(), "big")

    def number(self, below: int) -> int:
        self._left, number = divmod(self._left, below)
        return number

    def digits(self, count: int) -> str:
        return f"{self.number(10**count):0{count}d}"

    def one(self, choices: tuple[str, ...]) -> str:
        return choices[self.number(len(choices))]


@lru_cache(1 << 16)
def pseudonym(datum: Datum, key: str, shown: str, seed: str) -> str:
    """What stands for the value `key`, in the layout in which it is shown."""
    return _MADE[datum](key, shown, _Draw(f"{datum}:{key}", seed), seed)


def _mobile(key: str, shown: str, draw: _Draw, seed: str) -> str:
    return _filled(shown, "154" + draw.digits(8))  # a segment that no operator has


def _phone(key: str, shown: str, draw: _Draw, seed: str) -> str:
    if key.startswith("0"):  # of a Chinese city: no subscriber's number begins with 1
        area = 3 if key[1] in "12" else 4
        return _filled(shown, key[:area] + "1" + draw.digits(19), last=False)
    if len(key) < 9:  # without its area
        return _filled(shown, "1" + draw.digits(len(key) - 1))
    city = f"{draw.number(8) + 2}{draw.number(9)}{draw.number(10)}"
    number = f"{city}55501{draw.digits(2)}"  # kept free for films and books
    if len(key) == 10 and (shown.startswith("+1") or not shown.startswith("+")):
        return _filled(shown, number)
    return f"+1 {number[:3]}-{number[3:6]}-{number[6:]}"


def _email(key: str, shown: str, draw: _Draw, seed: str) -> str:
    return f"{draw.one(EN_FIRST)}.{draw.one(EN_LAST)}{draw.number(10**4)}@example.com".lower()


def _id_card(key: str, shown: str, draw: _Draw, seed: str) -> str:
    born = f"{1950 + draw.number(55)}{1 + draw.number(12):02d}{1 + draw.number(28):02d}"
    number = f"110101{born}{draw.digits(3)}"
    right = id_check_digit(number)
    return _filled(shown, number + ("5" if right == "X" else str((int(right) + 5) % 10)))


def _bank_card(key: str, shown: str, draw: _Draw, seed: str) -> str:
    number = key[:2] + draw.digits(len(key) - 3)
    return _filled(shown, number + str((5 - luhn(number + "0")) % 10))


def _ip(key: str, shown: str, draw: _Draw, seed: str) -> str:
    if ":" in key:
        return str(IPv6Address((0x20010DB8 << 96) + draw.number(1 << 64)))  # kept free for documentation
    return str(IPv4Address((198 << 24) + (18 << 16) + draw.number(1 << 17)))  # kept free for measuring networks


def _address(key: str, shown: str, draw: _Draw, seed: str) -> str:
    house = 1 + draw.number(300)
    if shown.isascii():
        town = f", {draw.one(EN_TOWNS)}" if "," in shown else ""
        return f"{house} {draw.one(EN_STREETS)} Street{town}"
    return f"{draw.one(ZH_CITIES)}市{draw.one(ZH_DISTRICTS)}区{draw.one(ZH_STREETS)}路{house}号"


def _name(key: str, shown: str, draw: _Draw, seed: str) -> str:
    """Chinese names keep their surname, which millions share. Each word of an English name has its own substitute,
    so that John Smith, John and Mr. Smith stay one person."""
    if "·" in key or "•" in key:
        return "·".join(draw.one(ZH_FOREIGN) for _ in re.split("[·•]", key))
    if not key[0].isascii() and key[0] > "\u2e80":
        surname = key[:2] if key[:2] in COMPOUND_SURNAMES else key[:1]
        return surname + draw.one(ZH_GIVEN[len(key) - len(surname)])
    words = [word for word in key.split() if not word.endswith(".")]
    return " ".join(dict.fromkeys((_first(words[0], seed, len(words) == 1), _last(words[-1], seed, len(words) == 1))))


def _first(word: str, seed: str, alone: bool) -> str:
    return _last(word, seed, alone) if alone and word not in FIRST_NAMES else _Draw(f"first:{word}", seed).one(EN_FIRST)


def _last(word: str, seed: str, alone: bool) -> str:
    return _first(word, seed, alone) if alone and word in FIRST_NAMES else _Draw(f"last:{word}", seed).one(EN_LAST)


def _filled(shown: str, digits: str, last: bool = True) -> str:
    """`shown` with its last or first digits replaced, each in its width; what is between and around them stays."""
    places = [found.start() for found in _DIGIT.finditer(shown)]
    places = places[-len(digits) :] if last else places[: len(digits)]
    filled = list(shown)
    for place, digit in zip(places, digits, strict=False):
        wide = "０" <= shown[place] <= "９"
        filled[place] = chr(ord(digit) - ord("0") + ord("０")) if wide else digit
    return "".join(filled)


_MADE: dict[Datum, Callable[[str, str, _Draw, str], str]] = {
    "mobile": _mobile,
    "phone": _phone,
    "email": _email,
    "id_card": _id_card,
    "bank_card": _bank_card,
    "ip": _ip,
    "address": _address,
    "name": _name,
}
