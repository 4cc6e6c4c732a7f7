"""Steps that take markup out of text, or write the same characters one way. None of them changes code in Markdown."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.text.steps.base import StepSettings


class HtmlStep(StepSettings):
    """Takes HTML out of text: whole pages without their scripts, styles and navigation; stray tags and entities.

    A tag is what HTML knows by that name, and what has attributes or both opens and closes in the text: `a<b`,
    `List<String>` and `cp <source> <target>` stay, and so do strings in code: "<b>x</b>".
    """

    op: Literal["html"] = "html"


class LinksStep(StepSettings):
    """Removes addresses of the web, or writes something in their place; of Markdown links the text stays."""

    op: Literal["links"] = "links"
    replacement: str = Field(default="", description="What stands where an address stood, such as [URL].")

    @model_validator(mode="after")
    def _no_link(self) -> Self:
        if re.search(r"://|www\.|\]\(|`", self.replacement, re.IGNORECASE):
            raise ValueError(f"{self.replacement!r} would be a link itself. Choose a plain word.")
        return self


class MarkdownStep(StepSettings):
    """Takes out of Markdown what is about the page and not text."""

    op: Literal["markdown"] = "markdown"
    front_matter: bool = Field(default=True, description="Remove the block of `key: value` between --- at the top.")
    badges: bool = Field(default=True, description="Remove images of build states, versions, downloads and licences.")
    images: bool = Field(default=True, description="Remove lines that hold nothing but images.")
    contents: bool = Field(
        default=True,
        description="Remove tables of contents: [TOC] marks, lists of links into the same page.",
    )


class WidthStep(StepSettings):
    """Writes full-width letters and digits (Ａ１) in half width (A1)."""

    op: Literal["width"] = "width"
    punctuation: bool = Field(
        default=False,
        description="Also punctuation, symbols and the wide blank: ，！（ become ,!(, against the rules of Chinese.",
    )


class SimplifiedStep(StepSettings):
    """Writes traditional Chinese in simplified characters, word by word where that matters. Not for Japanese text."""

    op: Literal["simplified"] = "simplified"


MarkupStep = HtmlStep | LinksStep | MarkdownStep | WidthStep | SimplifiedStep
