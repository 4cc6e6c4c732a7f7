"""Open Assistant trees: all ways from the first prompt to a last answer, or ranked answers to one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from danlu.text.adapters.messages import turn
from danlu.text.problems import BadRow
from danlu.text.records import Conversation, Message, Preference


def conversations(fields: dict[str, Any]) -> list[Conversation]:
    """One conversation for each answer that no other answer follows."""
    return [Conversation(path) for path, node in _walk(fields["prompt"]) if _is_last_answer(node)]


def preferences(fields: dict[str, Any]) -> list[Preference]:
    """For each prompt with ranked answers, the best (the lowest rank) and the worst."""
    found = []
    for path, node in _walk(fields["prompt"]):
        ranked = sorted((rank, i) for i, reply in enumerate(_replies(node)) if (rank := _rank(reply)) is not None)
        if path[-1]["role"] == "user" and len(ranked) > 1 and ranked[0][0] < ranked[-1][0]:
            best, worst = (_message(_replies(node)[index]) for _, index in (ranked[0], ranked[-1]))
            found.append(Preference(path, [best], [worst]))
    return found


def _walk(node: Any, before: tuple[Message, ...] = ()) -> Iterator[tuple[list[Message], dict[str, Any]]]:
    pending = [(node, before)]
    while pending:
        node, before = pending.pop()
        path = (*before, _message(node))
        yield list(path), node
        pending.extend((reply, path) for reply in reversed(_replies(node)))


def _message(node: Any) -> Message:
    if not isinstance(node, dict) or "role" not in node:
        raise BadRow("message without a role", "a node of the tree without `role`")
    return turn(node["role"], node.get("text"))


def _replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    replies = node.get("replies") or []
    return [reply for reply in replies if not (reply.get("deleted") or reply.get("review_result") is False)]


def _rank(node: dict[str, Any]) -> int | None:
    rank = node.get("rank", (node.get("meta") or {}).get("rank"))
    return rank if isinstance(rank, int) else None


def _is_last_answer(node: dict[str, Any]) -> bool:
    return _message(node)["role"] == "assistant" and not any(_replies(prompt) for prompt in _replies(node))
