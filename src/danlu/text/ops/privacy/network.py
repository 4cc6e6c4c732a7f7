"""E-mail and IP addresses. Addresses that belong to nobody (examples, private networks, well-known servers) stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from danlu.text.lexicon import words
from danlu.text.ops.privacy.spans import Span, before

ANY_IPV4 = re.compile(rb"0\.0{1,3}\.0{1,3}\.0")
_IPV4 = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}")
_IPV6 = re.compile(r"[23][0-9a-fA-F]{3}(?:::?[0-9a-fA-F]{1,4}){2,7}(?:::)?")  # of all networks, 2000::/3 is public
_VERSION = re.compile(r"version|section|RFC|[章节版]|更新|release|update|build|firmware|driver|\bv|==", re.IGNORECASE)
_IP_CUE = re.compile(r"(?<![a-z])ip(?![a-z])|addr|host|server|dns|ping|地址|主机|服务器|网关|节点", re.IGNORECASE)
_SERVERS = frozenset(words("8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 114.114.114.114 223.5.5.5"))

_LOCAL_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+-]*[A-Za-z0-9_+-])?\Z")
_DOMAIN = re.compile(r"@([A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,10})(?![A-Za-z0-9-]|\.[A-Za-z0-9])")
_TOP_LEVEL = frozenset(
    words("""
        com net org edu gov mil int info biz name pro app dev tech xyz top site online club vip work shop store
        cloud email live link wang ltd group asia mobi tel science world today news blog chat space website icu
        fun ink art
    """)
)
_EXAMPLE_DOMAINS = ("example.com", "example.org", "example.net", "example.edu")


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses; those of example domains (RFC 2606) and the users of version control (git@…) stay."""
    for found in _DOMAIN.finditer(text):
        domain = found[1].lower()
        local = _LOCAL_PART.search(before(text, found.start(), 64))
        top = domain.rpartition(".")[2]
        if local is None or domain.endswith(_EXAMPLE_DOMAINS) or not (len(top) == 2 or top in _TOP_LEVEL):
            continue
        name = local[0].lower()
        if name not in ("git", "hg", "svn"):
            yield Span(found.start() - len(name), found.end(), "email", f"{name}@{domain}")


def addresses_v4(text: str) -> Iterator[Span]:
    """Public IPv4 addresses; what may be a version or a section number needs a word for what it is before it."""
    for found in _IPV4.finditer(text):
        left, right = before(text, found.start(), 1), text[found.end() : found.end() + 2]
        if left.isdecimal() or left in (".", "_", "-") or right[:1].isdecimal() or _goes_on(right):
            continue
        address = _public(found[0])
        if address is None or (left.isalpha() and left.isascii()):
            continue
        context = before(text, found.start(), 24)
        small = max(address.packed) < 64
        if (
            not _VERSION.search(context)
            and not right.lstrip().startswith(("小", "节", "章"))
            and (not small or _IP_CUE.search(context))
        ):
            yield Span(found.start(), found.end(), "ip", str(address))


def addresses_v6(text: str) -> Iterator[Span]:
    """Public IPv6 addresses."""
    for found in _IPV6.finditer(text):
        left, right = before(text, found.start(), 1), text[found.end() : found.end() + 1]
        if (left.isalnum() and left.isascii()) or left == ":" or right == ":" or (right.isalnum() and right.isascii()):
            continue
        if (address := _public(found[0])) is not None:
            yield Span(found.start(), found.end(), "ip", str(address))


def _goes_on(right: str) -> bool:
    return (right[:1].isalpha() and right[:1].isascii()) or (right[:1] in (".", "-", "_") and right[1:].isalnum())


def _public(text: str) -> IPv4Address | IPv6Address | None:
    """The address if it is somebody's: not private, not of documentation, no network, no well-known server."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if not address.is_global or address.is_multicast or address.packed[-1] == 0 or text in _SERVERS:
        return None
    return address
