"""Settings of what is done about personal data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.text.steps.base import StepSettings

Datum = Literal["mobile", "phone", "email", "id_card", "bank_card", "ip", "address", "name"]
DATA: tuple[Datum, ...] = ("mobile", "phone", "email", "id_card", "bank_card", "ip", "address", "name")


class PrivacyStep(StepSettings):
    """Replaces personal data. What it did stands in a record's `meta.privacy` and in a column a kind.

    Form and checksum find numbers, e-mail and IP addresses nearly without error. Addresses and names are found by
    small dictionaries and the words around them: good for conversations and forms, wrong for novels and history,
    whose people are nobody's secret. So those two are asked for by name.
    """

    op: Literal["privacy"] = "privacy"
    find: list[Datum] = Field(
        default=["mobile", "phone", "email", "id_card", "bank_card", "ip"],
        description="What is looked for: mobile and (fixed or foreign) phone, e-mail, Chinese ID card (checksum), bank "
        "card (Luhn), public IP address, address down to a house number, name of a person.",
    )
    action: Literal["pseudonym", "mask", "remove"] = Field(
        default="pseudonym",
        description="pseudonym: another value of the same form that is nobody's, the same for the same value in the "
        "whole corpus, so that text stays text; mask: [MOBILE], [NAME]; remove: nothing in its place.",
    )
    seed: str = Field(
        default="",
        description="Makes other pseudonyms. Whoever knows it can test whether a pseudonym stands for a guessed value, "
        "and it is written into the manifest.",
    )
