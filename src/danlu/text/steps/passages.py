"""Steps that take passages out of text: notices at the head of source code, sentences said again, endless words."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.text.steps.base import Kind, StepSettings


class CopyrightStep(StepSettings):
    """Takes copyright and licence notices off the head of source code. Other comments there, which say what the code
    does, stay, and so do `#!` and headings of prose such as `# Copyright law`."""

    op: Literal["copyright"] = "copyright"
    kinds: list[Kind] = Field(default=["document"], description="The kinds of record that this step looks at.")


class RepeatedSentencesStep(StepSettings):
    """Takes out sentences that stood earlier in the same document or message. Code is left alone."""

    op: Literal["repeated_sentences"] = "repeated_sentences"
    shortest: int = Field(
        default=30,
        ge=1,
        description="Bytes of UTF-8 in letters and digits from which on a sentence counts: 30 Latin letters or 10 "
        "Chinese characters. Shorter ones (`Yes.`) are said again on purpose.",
    )


class LongWordsStep(StepSettings):
    """Takes out words longer than any language has: packed data, keys, addresses. Code in Markdown is left alone.

    Chinese, Japanese and other scripts without blanks have no such words.
    """

    op: Literal["long_words"] = "long_words"
    longest: int = Field(
        default=200,
        ge=1,
        description="Most characters between blanks that stay. Chemical names and addresses of the web reach 150.",
    )


PassagesStep = CopyrightStep | RepeatedSentencesStep | LongWordsStep
