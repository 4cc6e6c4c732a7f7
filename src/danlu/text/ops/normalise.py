"""One way to write the same text: line ends, invisible characters, blanks, Unicode NFC."""

from __future__ import annotations

import re
import unicodedata

from danlu.text.ops.contents import with_text
from danlu.text.records import Record
from danlu.text.steps.basic import NormaliseStep

_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_BLANKS = "\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u202f\u205f"
# Joiners (U+200C, U+200D) hold emoji and some scripts together, and U+3000 indents Chinese paragraphs: they stay.
_INVISIBLE = (
    "".join(chr(code) for code in range(0x20) if chr(code) not in "\t\n" + _LINE_ENDS)
    + "".join(map(chr, range(0x7F, 0xA0))).replace("\x85", "")
    + "\xad\u180e\u200b\u2060\ufeff"
)
_TABLE = str.maketrans(
    {**dict.fromkeys(_LINE_ENDS, "\n"), **dict.fromkeys(_BLANKS, " "), **dict.fromkeys(_INVISIBLE, None)}
)
_ODD = re.compile("[" + re.escape(_LINE_ENDS + _BLANKS + _INVISIBLE) + "]")
_LOOSE_ENDS = (" \n", "\t\n", "\u3000\n")  # no other blanks are left by then
_MANY_BLANK_LINES = re.compile(r"\n{4,}")


def normalise(record: Record, step: NormaliseStep) -> Record:
    """The record with every text in it normalised."""
    return with_text(record, lambda text: normal_text(text, step))


def normal_text(text: str, step: NormaliseStep) -> str:
    """The text in its normal form, which normalising again does not change."""
    text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    text = text.translate(_TABLE) if _ODD.search(text) else text
    text = unicodedata.normalize("NFC", text) if step.nfc else text
    if step.whitespace:
        text = text.rstrip()
        if any(end in text for end in _LOOSE_ENDS):
            text = "\n".join(line.rstrip() for line in text.split("\n"))
        if "\n\n\n\n" in text:
            text = _MANY_BLANK_LINES.sub("\n\n\n", text)
        text = text.lstrip("\n")
    return text
