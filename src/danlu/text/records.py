"""The three records that every reader yields and every later room takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, NotRequired, Self, TypedDict


class Message(TypedDict):
    """A chat message in the OpenAI form; `weight` 0 keeps it out of the loss."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    reasoning_content: NotRequired[str]
    weight: NotRequired[float]


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text with its origin."""

    text: str
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        return {"kind": "document", "text": self.text, "source": self.source, "meta": self.meta}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        return cls(row["text"], row.get("source", ""), row.get("meta", {}))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, with the tools that the assistant may call."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        row = {"kind": "conversation", "messages": self.messages, "source": self.source, "meta": self.meta}
        return row if self.tools is None else {**row, "tools": self.tools}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        return cls(row["messages"], row.get("tools"), row.get("source", ""), row.get("meta", {}))


@dataclass(frozen=True, slots=True)
class Preference:
    """A history and two ways to go on from it, the better one first.

    An empty side is not known: what stands on the other was found good (chosen) or bad (rejected) by itself.
    """

    messages: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        return {
            "kind": "preference",
            "messages": self.messages,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "source": self.source,
            "meta": self.meta,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        return cls(row["messages"], row["chosen"], row["rejected"], row.get("source", ""), row.get("meta", {}))


Record = Document | Conversation | Preference


def content_hash(record: Record) -> int:
    """A stable 64-bit hash of what a record says; its origin and meta do not count."""
    row = record.to_row()
    content = {key: row[key] for key in ("text", "messages", "tools", "chosen", "rejected") if key in row}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
