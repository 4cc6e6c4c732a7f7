"""Characters, words, lines and sentences in slow plain Python, and texts in which they are awkward."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from danlu.text.function_words import CHINESE
from danlu.text.kernels import Class

PIECES = [
    *"的一𠀀々字。，！？；…、「」：,.!?;:'’-—_ \t\n\u3000\xa0aAéz09１Ａ①½かカｶ한ก😀👨+=$|<>`#\u200b\ufe0f\ue000\x00",
    *("don't", "The", "the", "Hello, world.", "你好。", "...", "\n\n", "  "),
]


@cache
def class_of(character: str) -> Class:
    special = {"\n": Class.NEWLINE, ".": Class.FULL_STOP} | dict.fromkeys("'’", Class.APOSTROPHE)
    if character in special:
        return special[character]
    if character.isspace():
        return Class.BLANK
    if character in "。！？；!?…｡":
        return Class.END
    if character in CHINESE:
        return Class.FUNCTION
    if re.match(r"[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]", character):
        return Class.HAN
    if re.match(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef]", character):
        return Class.OTHER
    category = unicodedata.category(character)
    if category[0] in "LM":
        kana = re.match(r"[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d]", character)
        return Class.KANA if kana else Class.LETTER
    numbers = {"Nd": Class.DIGIT, "Nl": Class.NUMBER, "No": Class.NUMBER}
    return numbers.get(category) or {"P": Class.PUNCTUATION, "S": Class.SYMBOL}.get(category[0], Class.OTHER)


def words_of(text: str) -> list[str]:
    """Letter by letter."""
    words, running = [], False
    for at, character in enumerate(text):
        kind = class_of(character)
        letters = 0 < at < len(text) - 1 and class_of(text[at - 1]) == class_of(text[at + 1]) == Class.LETTER
        run = Class.LETTER <= kind <= Class.NUMBER or (kind == Class.APOSTROPHE and letters)
        if Class.KANA <= kind <= Class.FUNCTION or (run and not running):
            words.append(character)
        elif run:
            words[-1] += character
        running = run
    return words


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def sentences_of(text: str) -> list[str]:
    """What stands between marks that end sentences, from the first to the last letter or digit of a word."""
    found = []
    for piece in re.split(r"[\n。！？；!?…｡]|\.(?=\s|$)", text):
        kinds = [class_of(character) for character in piece]
        inside = [at for at, kind in enumerate(kinds) if Class.LETTER <= kind <= Class.FUNCTION]
        if inside:
            found.append(piece[inside[0] : inside[-1] + 1])
    return found
