"""What a reward model says of the answers of a record, by a model that a room above brings."""

from __future__ import annotations

import numpy as np

from danlu.text.ops.operator import Column, Scorer
from danlu.text.records import Conversation, Message, Preference, Record
from danlu.text.steps.models import RewardStep


def score(records: list[Record], step: RewardStep, scorer: Scorer) -> dict[str, Column]:
    """`reward`: of a conversation, of a pair that of its chosen answer; `margin`: how much more than its rejected one
    has. NaN where there is none."""
    chats = [list(map(_chat, _sides(record))) for record in records]
    flat = [chat for own in chats for chat in own]
    rewards = np.asarray(scorer(flat), np.float64) if flat else np.zeros(0)
    ends = np.cumsum([len(own) for own in chats], dtype=np.int64)
    found = np.full((len(records), 2), np.nan)
    for row, (own, end) in enumerate(zip(chats, ends.tolist(), strict=True)):
        found[row, : len(own)] = rewards[end - len(own) : end]
    return {"reward": found[:, 0], "margin": found[:, 0] - found[:, 1]}


def _sides(record: Record) -> list[list[Message]]:
    if isinstance(record, Conversation):
        return [record.messages]
    if isinstance(record, Preference):
        return [[*record.messages, *record.chosen], [*record.messages, *record.rejected]]
    return []


def _chat(messages: list[Message]) -> list[Message]:
    """Up to the last answer."""
    last = max((place for place, message in enumerate(messages, 1) if message["role"] == "assistant"), default=0)
    return messages[:last]
