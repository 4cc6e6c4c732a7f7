"""What the settings of all cleaning steps share."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from danlu.config import Settings

Kind = Literal["document", "conversation", "preference"]
KINDS: tuple[Kind, ...] = ("document", "conversation", "preference")
Role = Literal["user", "assistant"]
Language = Literal["zh", "en", "mixed", "other"]
LANGUAGES: tuple[Language, ...] = ("zh", "en", "mixed", "other")


class Range(Settings):
    """Bounds of a measured value; both may be reached."""

    min: float | None = Field(default=None, description="The least value that stays; null: no bound.")
    max: float | None = Field(default=None, description="The greatest value that stays; null: no bound.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g}), so nothing would be kept. Swap them.")
        return self

    def judge(self, name: str, value: float | None) -> tuple[str, float] | None:
        """("`name` too low" or "too high", value); None inside the bounds, and for what could not be measured."""
        if value is None:
            return None
        if self.min is not None and value < self.min:
            return f"{name} too low", value
        if self.max is not None and value > self.max:
            return f"{name} too high", value
        return None


class StepSettings(Settings):
    """A step's own `op: Literal[NAME] = NAME` and settings come in a class below this one.

    Settings are of three sorts, so that as little as possible is done again when one is changed: `decides` names those
    that only the operator's `judge` reads, `gathers` those that its `gather`, `judge` and `edit` read; on all others
    what is measured and changed depends.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"min", "max"})
    gathers: ClassVar[frozenset[str]] = frozenset()
    folders: ClassVar[tuple[str, ...]] = ()
    """Settings that name a tokenizer or model: what is in it counts, not where it lies."""
    scores_by: ClassVar[tuple[str, ...]] = ()
    """Settings that, beside the folders, the function that scores is made with."""
    by_language: ClassVar[bool] = False
    """Whether `judge` asks for the language of each record, as `language` among the values, since each language has
    bounds of its own, in a setting called as it is (`bounds_in`)."""

    op: str
    name: str | None = Field(
        default=None,
        pattern=r"^[\w-]+$",
        description="Tells it from another step of its sort that looks at the same records: reports, reasons and "
        "`meta` then call it OP:NAME, such as classifier:spam.",
    )
    kinds: list[Kind] = Field(default=list(KINDS), description="The kinds of record that this step looks at.")
    languages: list[Language] = Field(
        default=list(LANGUAGES), description="The languages of records that this step looks at."
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        # So that the list of settings says what a step does.
        cls.model_fields["op"].description = " ".join(cleandoc(cls.__doc__ or "").partition("\n\n")[0].split())

    @property
    def called(self) -> str:
        """What results and reports call it: OP, or OP:NAME."""
        return f"{self.op}:{self.name}" if self.name else self.op

    @property
    def parts_languages(self) -> bool:
        """Whether it passes over records of some language."""
        return set(self.languages) != set(LANGUAGES)

    def files(self) -> list[str]:
        """Files and folders that the step reads, such as word lists: what is in them counts as a setting."""
        return []

    def scorer(self) -> dict[str, Any] | None:
        """How a worker makes the function that scores for the step ({"function", "arguments"}), where it is this
        room's; else it is handed in, and gets `scoring`."""
        return None

    def scoring(self) -> dict[str, Any]:
        """With which arguments a function that is handed in is made, those left out that are null."""
        given = {name: getattr(self, name) for name in (*self.folders, *self.scores_by)}
        return {name: value for name, value in given.items() if value is not None}

    def bounds(self) -> dict[str, Range]:
        """Ranges that decide alone, by the name of what is measured or found: thresholds that can move freely."""
        ranges = {name: getattr(self, name) for name in type(self).model_fields if name in self.decides}
        return {name: value for name, value in ranges.items() if isinstance(value, Range)}

    def bounds_in(self, language: str) -> dict[str, Range]:
        """As `bounds`, for records of a language."""
        return self.bounds()

    def edits(self) -> bool:
        """Whether the operator's `edit`, where it has one, changes anything; where not, a reading of all is spared."""
        return True

    def measuring(self) -> dict[str, Any]:
        """The settings on which its columns and changes depend."""
        return self.model_dump(exclude={"name", "kinds", "languages", *self.folders, *self.decides, *self.gathers})

    def gathering(self) -> dict[str, Any]:
        """The settings on which its findings depend, beside the columns."""
        return self.model_dump(exclude={"name", "kinds", "languages", *self.folders, *self.decides})
