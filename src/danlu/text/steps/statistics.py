"""Steps that drop records by measured values: shares of characters, lines, words, repetition, keywords, tokens.

Each measures all its values in any case, so that every threshold can be set or moved later without measuring again.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from danlu.text.steps.base import Range, StepSettings
from danlu.text.steps.folders import TOKENIZER, tokenizer_files

_OFF = Range()
SHIPPED = "danlu:"
LISTS = Path(__file__).parents[1] / "lists"
NEIGHBOURS = LISTS / "neighbours.txt"  # a character and all that usually follow it, a line each


def word_lists(names: list[str]) -> list[str]:
    """The files of word lists, of which those that come with danlu go by names such as danlu:boilerplate."""
    return [str(LISTS / f"{name.removeprefix(SHIPPED)}.txt") if name.startswith(SHIPPED) else name for name in names]


class RangesStep(StepSettings):
    """A step whose ranges have the names of what it measures, and decide alone."""

    def ranges(self) -> dict[str, Range]:
        """The ranges by name, in their order."""
        return super().bounds()


class CharactersStep(RangesStep):
    """Drops records by what their characters are: shares of all characters, blanks and line ends counted."""

    decides: ClassVar[frozenset[str]] = frozenset(
        {"alphanumeric", "punctuation", "symbols", "digits", "special", "han"}
    )

    op: Literal["characters"] = "characters"
    alphanumeric: Range = Field(
        default=_OFF,
        description="Letters of any script (Chinese too), with their accents, digits and numbers. Tables padded with "
        "blanks have little of it, so it is off.",
    )
    punctuation: Range = Field(
        default=_OFF, description="Punctuation in Unicode's sense, ASCII and full-width: , . ， 。 《 》 - _ # @."
    )
    symbols: Range = Field(
        default=_OFF, description="Symbols in Unicode's sense: + = < > | ~ $ ￥ → ■ ─ emoji, replacement characters."
    )
    digits: Range = Field(default=_OFF, description="Decimal digits, full-width ones too; not 一二三.")
    special: Range = Field(
        default=Range(max=0.5),
        description="All that is neither alphanumeric nor blank: punctuation, symbols, control characters. What is "
        "half marks is no text; prose has 0.02 to 0.2, tables and formulas up to 0.4.",
    )
    han: Range = Field(default=_OFF, description="Chinese characters.")


class LinesStep(RangesStep):
    """Drops records by their lines. Blank lines do not count, nor white space at the ends of lines."""

    decides: ClassVar[frozenset[str]] = frozenset(
        {"count", "average", "longest", "duplicate_lines", "duplicate_sentences", "ellipses", "bullets"}
    )

    op: Literal["lines"] = "lines"
    count: Range = Field(default=_OFF, description="Lines.")
    average: Range = Field(default=_OFF, description="Characters of a line on average.")
    longest: Range = Field(
        default=_OFF, description="Characters of the longest line. A Chinese paragraph is a line: no bound fits all."
    )
    duplicate_lines: Range = Field(
        default=Range(max=0.6),
        description="Share of characters in lines that stood earlier in the record. Documentation that repeats its "
        "listings reaches 0.5, a text said three times over has 0.67.",
    )
    duplicate_sentences: Range = Field(
        default=Range(max=0.6),
        description="Share of characters in sentences that stood earlier in the record. Sentences end with 。！？；… ! "
        "and ?, with a full stop before white space, and with the line.",
    )
    ellipses: Range = Field(
        default=_OFF, description="Share of lines that end in an ellipsis (…, ..., 。。。), as cut-off teasers do."
    )
    bullets: Range = Field(default=_OFF, description="Share of lines that begin with a bullet (•, ●, -, *, + …).")


class WordsStep(RangesStep):
    """Drops records by their words. Each Chinese character is a word; else a word is a run of letters and digits."""

    decides: ClassVar[frozenset[str]] = frozenset({"count", "average_length", "function_words"})

    op: Literal["words"] = "words"
    count: Range = Field(default=_OFF, description="Words.")
    average_length: Range = Field(
        default=_OFF,
        description="Characters of a word on average, Chinese and kana left out; meant for `languages: [en]`, where "
        "running text has 3 to 10. Records without such words pass.",
    )
    function_words: Range = Field(
        default=_OFF,
        description="Share of words that are function words (stop words): the, of, that; 的, 是, 在. Running text has "
        "a third and more in English, a tenth and more in Chinese, lists of names and keywords nearly none.",
    )


class RepetitionStep(RangesStep):
    """Drops records that say the same over and over: shares of characters in n-grams that stood earlier."""

    decides: ClassVar[frozenset[str]] = frozenset({"characters", "words"})

    op: Literal["repetition"] = "repetition"
    character_n: int = Field(default=10, ge=1, description="Characters of an n-gram, blanks left out.")
    word_n: int = Field(default=10, ge=1, description="Words of an n-gram; a Chinese character is a word.")
    characters: Range = Field(
        default=Range(max=0.9),
        description="Share of characters in repeated character n-grams. It grows with the length of a text: English "
        "novels cut at 40,000 characters have 0.1, a treatise of 200,000 has 0.6, reference pages up to 0.9.",
    )
    words: Range = Field(
        default=Range(max=0.8),
        description="Share of characters in repeated word n-grams. Prose of any length has next to none, laws 0.1 to "
        "0.5, reference pages up to 0.8; a text said six times over has more.",
    )


class NeighboursStep(RangesStep):
    """Drops what nobody writes: mashed keys, random characters, text read in a wrong encoding.

    Of letters that stand next to each other it counts how many are usual neighbours, by a table of English and Chinese
    text of all sorts. Where neighbours of a script are fewer than 40 or than a tenth of a record, they decide nothing;
    abbreviations in capitals do not count.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"latin", "han"})

    op: Literal["neighbours"] = "neighbours"
    latin: Range = Field(
        default=Range(min=0.6),
        description="Share of neighbouring Latin letters that are among English's 300 usual pairs: prose and code have "
        "0.9 and more, pages full of identifiers 0.75, mashed keys 0.5 and less.",
    )
    han: Range = Field(
        default=Range(min=0.02),
        description="Share of neighbouring Chinese characters, traditional ones too, that are among 24,000 usual "
        "pairs: prose has 0.6 and more, poems 0.2, random characters and broken encodings less than 0.01.",
    )

    def files(self) -> list[str]:
        return [str(NEIGHBOURS)]


class KeywordsStep(RangesStep):
    """Drops records by the words of lists that you bring: sensitive, banned, or wanted words.

    Words of scripts with blanks between words count as whole words only, Chinese ones wherever they stand; upper and
    lower case are the same.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"count", "density", "least"})

    op: Literal["keywords"] = "keywords"
    lists: list[str] = Field(
        min_length=1,
        description="Text files in UTF-8, one word or phrase a line, # before comments. After tabs may come a weight "
        "(1 if absent), a category, or both in this order. danlu:boilerplate is a list that comes with danlu: phrases "
        "of adverts, menus, notices on cookies, templates that nobody filled in, mashed keys, broken encodings.",
    )
    least: int = Field(
        default=0,
        ge=0,
        description="Records with fewer different words of the lists stay, however often they say them: that is their "
        "subject.",
    )
    count: Range = Field(
        default=_OFF,
        description="Hits, each with its weight. {max: 0} drops a record with any hit; {min: 1} one without.",
    )
    density: Range = Field(
        default=_OFF, description="Hits, each with its weight, in 1,000 characters: fairer to long records than count."
    )

    def files(self) -> list[str]:
        return word_lists(self.lists)

    def bounds(self) -> dict[str, Range]:
        return {} if self.least else super().bounds()

    @model_validator(mode="after")
    def _decides_something(self) -> Self:
        if self.count == self.density == _OFF:
            raise ValueError("no threshold is set. Write `count: {max: 0}` to drop every record with a hit.")
        return self


class TokensStep(RangesStep):
    """Drops records by their length in tokens, without markup of a chat template."""

    decides: ClassVar[frozenset[str]] = frozenset({"count", "characters_per_token"})
    folders: ClassVar[tuple[str, ...]] = ("tokenizer",)

    op: Literal["tokens"] = "tokens"
    count: Range = Field(default=_OFF, description="Tokens.")
    characters_per_token: Range = Field(
        default=_OFF,
        description="Characters of a token on average; text that the tokenizer hardly knows, such as noise, has few.",
    )
    tokenizer: str | None = TOKENIZER

    def files(self) -> list[str]:
        return tokenizer_files(self.tokenizer)


StatisticsStep = CharactersStep | LinesStep | WordsStep | RepetitionStep | NeighboursStep | KeywordsStep | TokensStep
