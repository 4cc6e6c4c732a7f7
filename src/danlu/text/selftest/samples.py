"""Generated good and bad text in Chinese and English: written lines put together by chance, noise, and damaged text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from danlu.config import read_yaml

SelfTestLanguage = Literal["zh", "en"]
EACH = 14  # texts of a category
_SLOT = re.compile(r"\{([a-z]+|9)\}")
_KEYS = {
    "zh": "啊阿爱三撒斯是时实的大打到发飞法非高个给规和好后就见快看卡了来里老去前起我为外问二额人热让他它天",
    "en": "asdfghjklqwertyuiopzxcvbnm",
}
_WORDS = {"zh": ["阿斯顿", "阿斯蒂芬", "撒旦法", "的撒发", "打发斯蒂芬", "实打实", "啊实打实的", "大三大四"]}


class Sample(NamedTuple):
    """A text, and whether a corpus of its language wants it."""

    language: SelfTestLanguage
    category: str
    good: bool
    text: str


class _Writer:
    """Puts texts of one language together."""

    def __init__(self, language: SelfTestLanguage, random: Random) -> None:
        self.language, self.random = language, random
        self.content = _written(language)
        self.blank = "" if language == "zh" else " "

    def text(self, category: dict[str, Any]) -> str:
        lines = category["lines"]
        if "take" in category:
            lines = self.random.sample(lines, category["take"])
        lines = [self.filled(line) for line in lines] * category.get("repeat", 1)
        return str(category.get("join", " ")).join(lines)

    def filled(self, line: str) -> str:
        return _SLOT.sub(lambda slot: self._word(slot[1]), line).replace("{{", "{").replace("}}", "}")

    def good(self) -> str:
        """A text of running sentences."""
        return self.text(self.content["good"][self.random.choice(_PROSE[self.language])])

    def _word(self, name: str) -> str:
        return str(self.random.randint(1, 9)) if name == "9" else str(self.random.choice(self.content["words"][name]))


_PROSE = {"zh": ("新闻", "百科", "故事"), "en": ("news", "encyclopedia", "story")}


def samples(languages: tuple[SelfTestLanguage, ...], seed: int = 0, each: int = EACH) -> list[Sample]:
    """`each` texts of every category; the same for the same seed."""
    writers = [_Writer(language, Random(f"{seed} {language}")) for language in languages]
    return [sample for writer in writers for sample in _samples(writer, each)]


def _samples(writer: _Writer, each: int) -> Iterator[Sample]:
    language = writer.language
    for good in (True, False):
        for name, category in writer.content["good" if good else "bad"].items():
            for _ in range(each):
                yield Sample(language, name, good, writer.text(category))
    for name, write in _DAMAGE.items():
        for _ in range(each):
            yield Sample(language, name, False, write(writer))
    for _ in range(each):  # the first of two is good, and what is dropped is the second
        text = writer.good() + "\n" + writer.good()
        yield Sample(language, "copied", True, text)
        yield Sample(language, "near copies", False, _almost(text, writer))


def _mash(writer: _Writer) -> str:
    """Hands on the keys; in Chinese the input method offers words for it."""
    random, keys = writer.random, _KEYS[writer.language]
    words = []
    for _ in range(random.randint(12, 30)):
        at = random.randrange(len(keys) - 3)
        words += [random.choice(_WORDS.get(writer.language) or [keys[at : at + 4]]), *random.choices(keys, k=2)]
    return "".join(words) if writer.language == "zh" else _in_words("".join(words), random)


def _in_words(letters: str, random: Random) -> str:
    pieces = []
    while letters:
        size = random.randint(3, 9)
        pieces.append(letters[:size])
        letters = letters[size:]
    return " ".join(pieces)


def _random_letters(writer: _Writer) -> str:
    """What a broken decoder gives: characters that nobody puts side by side."""
    random = writer.random
    if writer.language == "zh":
        return "".join(chr(random.randint(0x4E00, 0x9FA5)) for _ in range(random.randint(60, 200)))
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(random.choices(letters, k=random.randint(3, 9))) for _ in range(random.randint(15, 40)))


def _wrong_encoding(writer: _Writer) -> str:
    """UTF-8 read as GB18030 or as Latin-1."""
    text = writer.good()
    if writer.language == "zh":
        wrong = writer.random.choice(("gb18030", "cp1252"))
        return text.encode().decode(wrong, "replace")
    curly = re.sub(r"[aeo]", lambda vowel: writer.random.choice(("é", "’", "ö", vowel[0])), text)
    return curly.encode().decode("cp1252", "replace")


def _foreign(writer: _Writer) -> str:
    city = writer.random.choice(_written("en")["words"]["city"])
    return str(writer.random.choice(_written("en")["foreign"])).replace("{city}", city)


def _html(writer: _Writer) -> str:
    """Tags, styles and scripts with hardly a word between them."""
    random = writer.random
    names = [f"{random.choice('abcxyz')}{random.randint(10, 999)}" for _ in range(20)]
    soup = "".join(f'<div class="{name}"><span style="left:{random.randint(1, 99)}px"></span></div>' for name in names)
    return f"<html><head><script>var {names[0]}={random.random()};</script></head><body>{soup}OK</body></html>"


def _numbers(writer: _Writer) -> str:
    random = writer.random
    return "\n".join(" ".join(f"{random.random() * 10**6:.4f}" for _ in range(6)) for _ in range(12))


def _loop(writer: _Writer) -> str:
    """A model that says the same sentence again and again."""
    story = {**writer.content["good"][_PROSE[writer.language][2]], "take": 1}
    return writer.blank.join([writer.text(story), *[writer.text(story)] * writer.random.randint(6, 20)])


def _one_character(writer: _Writer) -> str:
    random = writer.random
    character = random.choice("哈啊呵嗯好牛" if writer.language == "zh" else "aholzw")
    return character * random.randint(80, 300)


def _marks(writer: _Writer) -> str:
    random = writer.random
    return "".join(random.choice("-=*~#|<>★■▲◆_/\\+%&@!?.,;:") for _ in range(random.randint(80, 300)))


def _almost(text: str, writer: _Writer) -> str:
    """The text with another last character."""
    return text[:-1] + writer.random.choice("!?")


_DAMAGE: dict[str, Callable[[_Writer], str]] = {
    "mashed keys": _mash,
    "random letters": _random_letters,
    "wrong encoding": _wrong_encoding,
    "wrong language": _foreign,
    "html soup": _html,
    "numbers": _numbers,
    "looped sentences": _loop,
    "one character": _one_character,
    "marks": _marks,
}


@cache
def _written(language: SelfTestLanguage) -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name(f"{language}.yaml"))[0]
