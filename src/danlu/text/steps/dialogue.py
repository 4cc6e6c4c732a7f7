"""Steps for conversations: spoken text smoothed, long histories cut, repeated turns, what users say of themselves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from danlu.text.steps.base import Kind, Role, StepSettings
from danlu.text.steps.classifier import PATH, classifier_files, classifier_scorer
from danlu.text.steps.folders import TOKENIZER, tokenizer_files
from danlu.text.steps.statistics import word_lists

_TALK: list[Kind] = Field(
    default=["conversation", "preference"], description="The kinds of record that this step looks at."
)


class SmoothStep(StepSettings):
    """Takes out of spoken text what nobody means: 呃, um, 我我我, 。。. Code, titles and links stay as they are.

    What is an answer stays: a turn of 嗯 alone, 嗯 that agrees before content, 天天, 谢谢, 哈哈哈, uh-huh. How often
    what was changed stands in `meta.smoothed` and in the columns.
    """

    op: Literal["smooth"] = "smooth"
    kinds: list[Kind] = _TALK
    roles: list[Role] = Field(default=["user", "assistant"], description="Whose turns are smoothed.")
    fillers: bool = Field(default=True, description="呃, 额, 嗯 that hesitates, 那个那个; um, uh, you know.")
    repeats: bool = Field(default=True, description="我我我觉得 to 我觉得, 然后然后 to 然后, the the.")
    punctuation: bool = Field(default=True, description="，， to ，, !!! to !, 。。。 to ……, ，。 to 。.")
    slips: str | None = Field(
        default="danlu:slips",
        description="A text file in UTF-8 of common slips: the wrong words, a tab, the right ones (or nothing) a line; "
        "English ones are whole words in either case. danlu:slips comes with danlu: 迫不急待, 一愁莫展, recieve, "
        "only what is never right. Null: none. A conversation about slips (错别字, 纠正, spelling) keeps its own.",
    )
    keep: list[str] = Field(default=[], description="Words in which nothing is changed, beside those built in.")

    def files(self) -> list[str]:
        return word_lists([self.slips]) if self.slips else []


class HistoryStep(StepSettings):
    """Cuts long conversations to their newest turns. The system prompt and the last exchange stay, no turn is split,
    and what is left begins with the user."""

    op: Literal["history"] = "history"
    kinds: list[Kind] = _TALK
    characters: int = Field(
        ge=1, description="Most characters of a conversation's messages; a longer last exchange stays."
    )


class HistoryTokensStep(StepSettings):
    """As history, by tokens."""

    folders: ClassVar[tuple[str, ...]] = ("tokenizer",)

    op: Literal["history_tokens"] = "history_tokens"
    kinds: list[Kind] = _TALK
    tokens: int = Field(ge=1, description="Most tokens of a conversation's messages, without a template's markup.")
    tokenizer: str | None = TOKENIZER

    def files(self) -> list[str]:
        return tokenizer_files(self.tokenizer)


class TurnsStep(StepSettings):
    """Finds conversations that go round in circles: the same answer again, to the same question or to another one.

    A question asked again that gets another answer is none of that."""

    op: Literal["turns"] = "turns"
    kinds: list[Kind] = _TALK
    action: Literal["remove", "drop"] = Field(
        default="remove",
        description="remove: exchanges that repeat an earlier one go, the first stays; drop: the conversation goes.",
    )
    similarity: float = Field(
        default=0.9, gt=0, le=1, description="Texts of at least this Jaccard similarity are the same."
    )
    ngram: int = Field(default=3, ge=1, description="Characters of an n-gram, of which the similarity is counted.")
    shortest: int = Field(
        default=60,
        ge=1,
        description="Bytes of the answer, with the question if that is the same too: less (20 Chinese characters, ten "
        "words), as Is there anything else?, may come again.",
    )


Tag = Literal["age", "gender", "region", "group"]
TAGS: tuple[Tag, ...] = ("age", "gender", "region", "group")


class TagsStep(StepSettings):
    """Notes what users say of themselves in `meta.tags`: {"age": {"value": "25-34", "confidence": 0.95, "by": "rule"}}.

    A source then takes them by `where: ["meta.tags.region.value == 四川"]`. Nothing is dropped.
    """

    op: Literal["tags"] = "tags"
    kinds: list[Kind] = _TALK
    find: list[Tag] = Field(
        default=list(TAGS),
        description="age: 0-17, 18-24, 25-34, 35-44, 45-54, 55-64, 65+; gender: female, male; region: a province of "
        "China, an American state or a country; group: student, retired, parent, teacher, medical, programmer, farmer, "
        "job_seeker.",
    )
    columns: dict[Tag, str] = Field(
        default={},
        description="Tags that a column of the source has: {gender: user_sex}. They go before rules.",
    )
    least: float = Field(default=0.7, ge=0, le=1, description="Less sure tags are left out.")


class TagsScoredStep(StepSettings):
    """Notes a tag as `tags` does, by a classifier: the likeliest label where it is sure enough."""

    gathers: ClassVar[frozenset[str]] = frozenset({"least"})
    folders: ClassVar[tuple[str, ...]] = ("classifier",)

    op: Literal["tags_scored"] = "tags_scored"
    kinds: list[Kind] = _TALK
    tag: Tag = Field(description="What the labels are values of.")
    labels: list[str] = Field(min_length=2, description="The labels, in the order of the scorer's columns.")
    classifier: str | None = Field(default=None, description=PATH + " null: clean() is given a scorer.")
    least: float = Field(default=0.7, ge=0, le=1, description="Less sure tags are left out.")

    def files(self) -> list[str]:
        return classifier_files(self.classifier) if self.classifier else []

    def scorer(self) -> dict[str, Any] | None:
        return classifier_scorer(self.classifier, self.labels) if self.classifier else None


Unsuitable = Literal["drop", "drop_turn", "mask"]
_ACTION = (
    "drop: the record goes; drop_turn: the exchange goes, in a document the sentence, and a record of which nothing is "
    "left; mask: "
)


class UnsuitableStep(StepSettings):
    """Looks for words of your lists in each turn, in documents in each sentence."""

    op: Literal["unsuitable"] = "unsuitable"
    lists: list[str] = Field(
        min_length=1, description="Word lists as the step keywords takes them: word, weight, category."
    )
    categories: list[str] = Field(default=[], description="Words of these categories alone; none: of all.")
    roles: list[Role] = Field(default=["user", "assistant"], description="Whose turns are looked at.")
    action: Unsuitable = Field(default="drop", description=_ACTION + "every character of the word is a *.")

    def files(self) -> list[str]:
        return word_lists(self.lists)


class UnsuitableScoredStep(StepSettings):
    """As unsuitable, by a classifier's score of each turn, in documents of each sentence."""

    decides: ClassVar[frozenset[str]] = frozenset()
    gathers: ClassVar[frozenset[str]] = frozenset({"max", "action"})
    folders: ClassVar[tuple[str, ...]] = ("classifier",)

    op: Literal["unsuitable_scored"] = "unsuitable_scored"
    roles: list[Role] = Field(default=["user", "assistant"], description="Whose turns are looked at.")
    classifier: str | None = Field(default=None, description=PATH + " null: clean() is given a scorer.")
    label: str | None = Field(default=None, description="The classifier's label for what is unsuitable.")
    max: float = Field(default=0.5, description="The greatest score that stays.")
    action: Unsuitable = Field(default="drop", description=_ACTION + "the whole turn or sentence is ***.")

    def files(self) -> list[str]:
        return classifier_files(self.classifier) if self.classifier else []

    def scorer(self) -> dict[str, Any] | None:
        return classifier_scorer(self.classifier, [self.label]) if self.classifier and self.label else None

    @model_validator(mode="after")
    def _label_of_classifier(self) -> Self:
        if (self.classifier is None) != (self.label is None):
            raise ValueError("`classifier` and `label` belong together: give both, or none.")
        return self


DialogueStep = (
    SmoothStep
    | HistoryStep
    | HistoryTokensStep
    | TurnsStep
    | TagsStep
    | TagsScoredStep
    | UnsuitableStep
    | UnsuitableScoredStep
)
