"""What a run asks of conversations before they are stored: a system prompt, roles in the loss, the longest turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from danlu.text.records import Conversation, Message, Preference, content_hash
from danlu.text.select import Condition
from danlu.tokens.characters import TokenBytes
from danlu.tokens.cut import Run, View
from danlu.tokens.encode import Encoded, Kind, Role

QUESTION_CUT = "a question cut to max_source_length"
ANSWER_CUT = "an answer cut to max_target_length, its stop token not trained"


def prompted(
    record: Conversation | Preference, mix: Sequence[Mapping[str, Any]], own: str = "keep"
) -> Conversation | Preference:
    """The record with a system prompt of `mix` ({"text", "share", "where"}), if it brings none and one falls to it.

    Which one follows from what the record says, so that it is the same in every run. With `own` "drop" it counts as
    one that brings none.
    """
    if own == "drop" and len(record.messages) > 1 and record.messages[0]["role"] == "system":
        record = replace(record, messages=record.messages[1:])
    if not mix or record.messages[0]["role"] == "system":
        return record
    place, reached = content_hash(record) / 2**64, 0.0
    for prompt in mix:
        if all(_condition(text).holds(record.meta) for text in prompt["where"]):
            reached += prompt["share"]
            if place < reached:
                first: Message = {"role": "system", "content": prompt["text"]}
                return replace(record, messages=[first, *record.messages])
    return record


def with_roles(document: Encoded, roles: Sequence[str], token_bytes: TokenBytes) -> Encoded:
    """The same with the content of these roles in the loss besides, and without the assistant's if it is not named."""
    named = [Role[role.upper()] for role in roles]
    sizes = document.piece_ends - document.piece_starts
    content = np.repeat(np.isin(document.piece_roles, named) & (document.piece_kinds == Kind.CONTENT), sizes)
    answers = np.repeat(document.piece_roles == Role.ASSISTANT, sizes)
    weights = np.where(content & ~answers, np.float32(1), document.weights)
    if Role.ASSISTANT not in named:
        weights = np.where(answers, np.float32(0), weights)
    spelt = np.repeat(document.piece_kinds == Kind.CONTENT, sizes) & (weights != 0)
    return replace(document, weights=weights, text_bytes=int(token_bytes.lengths[document.tokens[spelt]].sum()))


def limited(
    document: Encoded, source: int | None, target: int | None, token_bytes: TokenBytes
) -> tuple[Encoded, list[str]]:
    """The conversation with at most `source` tokens in each question (or tool result) and `target` in each answer, and
    what was done to it. Contents keep their beginning, cut between characters; system prompts stay whole.

    The stop token of an answer that was cut has weight 0: a cut answer must not teach to stop.
    """
    view, done = View(document, token_bytes), list[str]()
    runs: list[Run] = []
    cut_answer = False
    for run in view.whole():
        kind, role = view.kinds[run.piece], view.roles[run.piece]
        most = {Role.USER: source, Role.TOOL: source, Role.ASSISTANT: target}.get(Role(role))
        if kind == Kind.CONTENT:
            cut_answer = False
            if most is not None and view.size(run.piece) > most:
                cut_answer = role == Role.ASSISTANT
                done.append(ANSWER_CUT if cut_answer else QUESTION_CUT)
                run = view.head(run.piece, most)
        elif kind == Kind.STOP and cut_answer:
            run = run._replace(trained=False)
        runs.append(run)
    return (view.taken(runs), list(dict.fromkeys(done))) if done else (document, done)


@lru_cache(maxsize=64)
def _condition(text: str) -> Condition:
    return Condition.parse(text)
