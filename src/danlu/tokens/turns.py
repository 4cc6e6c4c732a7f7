"""What a run asks of conversations before they are stored: a system prompt, the longest turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

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
    # Another hash than that by which records are held out, or all of those would get the first prompt.
    salted = blake2b(content_hash(record).to_bytes(8, "big"), digest_size=8, person=b"system prompt")
    place, reached = int.from_bytes(salted.digest(), "big") / 2**64, 0.0
    for prompt in mix:
        if all(_condition(text).holds(record.meta) for text in prompt["where"]):
            reached += prompt["share"]
            if place < reached:
                first: Message = {"role": "system", "content": prompt["text"]}
                return replace(record, messages=[first, *record.messages])
    return record


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
