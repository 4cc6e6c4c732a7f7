"""Files that are read in one: their bytes within a limit, and the text that these are in some encoding."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from pathlib import Path

from danlu.text.pieces import Piece, Wanted
from danlu.text.problems import BadRow
from danlu.text.streams import byte_chunks

_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_WIDE = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}  # markup whose mark was lost
_DECLARED = re.compile(
    rb"""charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""", re.IGNORECASE
)
_HEAD = 4096  # bytes in which a page says how it is written; browsers look at 1,024
_SAMPLE = 1 << 16  # bytes from which an encoding is guessed
_GUESSES = ["gb18030", "big5hkscs", "shift_jis", "euc_jp", "euc_kr", "cp1252", "cp1251"]
_MEANT = {  # https://encoding.spec.whatwg.org/#names-and-labels: what browsers take for a label
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_SINGLE_BYTE = re.compile("cp125|iso8859|koi8|mac")
_DAMAGE = 0.001  # of the characters may be broken, as a page cut off by a crawler has one


def whole(piece: Piece, wanted: Wanted) -> bytes:
    """All bytes of a file. Raises BadRow where they are too many or nothing but NUL."""
    parts, size = [], 0
    for chunk in byte_chunks(Path(piece.file)):
        parts.append(chunk)
        size += len(chunk)
        if size > wanted.longest:
            raise wanted.too_long()
    content = b"".join(parts)
    if b"\0" in content[:1] and not content.strip(b"\0 \t\r\n"):
        raise BadRow("only NUL bytes", f"{size}, as a crash leaves them")
    return content


def decoded(content: bytes, declared: str = "") -> str:
    """Text by its byte order mark, by what is `declared` of it, by what it says in its head, as UTF-8, or by a guess.

    Raises BadRow where none of them fits.
    """
    for mark, name in _BOMS.items():
        if content.startswith(mark):
            return _text(content.removeprefix(mark), name, "by its byte order mark")
    if wide := _WIDE.get(content[:2]):
        return _text(content, wide, "by its first sign")
    found = _DECLARED.search(content[:_HEAD])
    said = found and (found[1] or found[2]).decode("latin-1")
    names = [name for name in map(_codec, (declared, said)) if name]
    # Any bytes are text in an encoding of single bytes, and servers declare latin-1 for want of knowledge.
    tried = [name for name in names if not _SINGLE_BYTE.match(name)] + ["utf-8"]
    for name in [*tried, *names]:
        try:
            return content.decode(name)
        except UnicodeDecodeError:
            continue
    if names:
        with suppress(BadRow):
            return _text(content, names[0], "declared")
    return _text(content, _guess(content), "guessed")


def _codec(label: str | None) -> str:
    """Python's name for an encoding that a page declares, "" for none that Python has."""
    try:
        name = codecs.lookup(label or "").name
        b"".decode(name)  # an encoding of text, not of bytes
    except (LookupError, ValueError):
        return ""
    return "utf-8" if name.startswith("utf-16") else _MEANT.get(name, name)  # the declaration itself was ASCII


def _guess(content: bytes) -> str:
    from charset_normalizer import from_bytes

    found = from_bytes(content[:_SAMPLE], cp_isolation=_GUESSES).best()
    return found.encoding if found else "utf-8"


def _text(content: bytes, name: str, how: str) -> str:
    text = content.decode(name, "replace")
    if text.count("\ufffd") > 1 + _DAMAGE * len(text):
        raise BadRow("wrong encoding", f"{name}, {how}, does not fit")
    return text
