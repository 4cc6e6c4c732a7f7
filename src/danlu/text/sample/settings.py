"""Settings of the generated world."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from danlu.config import Settings


class SampleSettings(Settings):
    """A small bilingual world: how much of it there is, and how much of it is written down."""

    seed: int = Field(
        default=42, ge=0, description="Seed of the world and of every text; equal settings give equal files."
    )
    people: int = Field(
        default=48, ge=4, le=48, description="People; each has a home, a job, a dish, a pet and a hobby."
    )
    places: int = Field(
        default=20, ge=4, le=20, description="Places; each has a product, a sight and a month for its fair."
    )
    objects: int = Field(
        default=24, ge=4, le=24, description="Objects; each has an owner, a material, a colour and a room."
    )
    largest_addend: int = Field(default=12, ge=3, le=99, description="Sums add two numbers from 0 to this one.")
    documents: int = Field(default=6000, ge=1, description="Documents in each language.")
    sum_documents: float = Field(default=0.06, ge=0, le=1, description="Share of the documents that hold sums.")
    duplicates: float = Field(
        default=0.02, ge=0, le=1, description="Documents written a second time, for cleaning to find."
    )
    conversations: int = Field(default=3200, ge=1, description="Conversations in each language.")
    turns: int = Field(default=2, ge=1, le=8, description="Most questions in one conversation.")
    sum_questions: float = Field(default=0.15, ge=0, le=1, description="Share of the questions asked that are sums.")
    system: float = Field(
        default=0.2, ge=0, le=1, description="Share of the conversations that begin with a system prompt."
    )
    loops: float = Field(
        default=0.22,
        ge=0,
        le=1,
        description="Share of the conversations' answers that loop to their end, each the last of its conversation; "
        "loops times turns is at most 1.",
    )
    loop_repeats: int = Field(
        default=5, ge=4, le=20, description="How often a looping answer is said over until it is cut off."
    )
    held_out: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the relation questions that are never asked."
    )
    held_out_sums: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the pairs of numbers whose sum is written in one order only."
    )
    preferences: int = Field(default=500, ge=1, description="Preference pairs in each language.")
    wrong: float = Field(
        default=0.3, ge=0, le=1, description="Share of the rejected answers that are wrong; the others loop."
    )

    @model_validator(mode="after")
    def _one_loop_to_a_conversation(self) -> Self:
        if self.loops * self.turns > 1:
            raise ValueError(
                f"loops {self.loops} with {self.turns} turns asks for more than one looping answer in a conversation. "
                f"Set loops to at most 1 / turns."
            )
        return self
