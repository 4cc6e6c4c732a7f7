"""Every schema that is understood, chosen by the fields of a row and never by a file's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from danlu.text.adapters import chats, instructions, oasst, preferences
from danlu.text.adapters.messages import listed, openai_message, text, tools
from danlu.text.problems import BadRow
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.settings import Kind

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Adapter:
    """`fits` looks at a row's fields; `read` gives the records of `kind` in it; `uses` are the columns it reads."""

    name: str
    kind: Kind
    uses: str
    fits: Callable[[Fields], bool]
    read: Callable[[Fields], Sequence[Record]]


def choose(fields: Fields, kind: Kind, name: str = "auto") -> Adapter:
    """The adapter called `name`, or the first whose schema the fields fit, for records of `kind`.

    Raises BadRow naming the fields seen, and the nearest adapters or what the row holds instead.
    """
    named = [adapter for adapter in ADAPTERS if name in ("auto", adapter.name)]
    for adapter in named:
        if adapter.kind == kind and adapter.fits(fields):
            return adapter
    if other := next((adapter for adapter in named if adapter.fits(fields)), None):
        raise BadRow(f"holds a {other.kind}, no {kind}", f"read by the adapter {other.name}")
    raise BadRow("unknown schema", f"fields: {_shown(fields)}; {_nearest(fields, kind, name)}")


def kinds(fields: Fields) -> list[Kind]:
    """What a row can be read as; rows that danlu wrote say it themselves."""
    fitting = [adapter for adapter in ADAPTERS if adapter.fits(fields)]
    own = [adapter.kind for adapter in fitting if adapter.name == "danlu"]
    return own or list(dict.fromkeys(adapter.kind for adapter in fitting))


def _shown(fields: Fields) -> str:
    names = [f"{name} ({type(value).__name__})" for name, value in list(fields.items())[:12]]
    return ", ".join(names) + (", ..." if len(fields) > 12 else "")


def _nearest(fields: Fields, kind: Kind, name: str) -> str:
    if name != "auto":
        return f"{name} takes: {'; '.join(a.uses for a in ADAPTERS if a.name == name)}"
    candidates = [adapter for adapter in ADAPTERS if adapter.kind == kind]
    candidates.sort(key=lambda adapter: -_likeness(fields, adapter.uses.split()))
    return "nearest: " + "; ".join(f"{adapter.name} takes {adapter.uses}" for adapter in candidates[:3])


def _likeness(fields: Fields, names: list[str]) -> float:
    best = (max((SequenceMatcher(None, name, field).ratio() for field in fields), default=0.0) for name in names)
    return sum(best) / len(names)


def _danlu(kind: Kind, record: type[Document] | type[Conversation] | type[Preference], *columns: str) -> Adapter:
    """Rows as `to_row` writes them; messages are looked through, for people write such rows too."""
    wanted = str if kind == "document" else list

    def fits(fields: Fields) -> bool:
        return fields.get("kind") == kind and all(isinstance(fields.get(name), wanted) for name in columns)

    def read(fields: Fields) -> Sequence[Record]:
        made = dict(fields) if isinstance(fields.get("meta"), dict) else {**fields, "meta": {}}
        made["source"] = text(fields, "source")
        if kind != "document":
            made |= {name: [openai_message(entry) for entry in fields[name]] for name in columns}
        if kind == "conversation":
            made["tools"] = tools(fields.get("tools"))
        return [record.from_row(made)]

    return Adapter("danlu", kind, " ".join(("kind", *columns, "tools source meta")), fits, read)


def _texts(fields: Fields) -> Sequence[Record]:
    return [Document(text(fields, "text" if isinstance(fields.get("text"), str) else "content"))]


def _strings(*names: str) -> Callable[[Fields], bool]:
    return lambda fields: all(isinstance(fields.get(name), str) for name in names)


def _turns(name: str, *keys: str) -> Callable[[Fields], bool]:
    """Fits where the column is a list whose first item is an object with these keys."""

    def fits(fields: Fields) -> bool:
        first = (listed(fields, name) or [None])[0]
        return isinstance(first, dict) and all(key in first for key in keys)

    return fits


def _any(*tests: Callable[[Fields], bool]) -> Callable[[Fields], bool]:
    return lambda fields: any(test(fields) for test in tests)


def _all(*tests: Callable[[Fields], bool]) -> Callable[[Fields], bool]:
    return lambda fields: all(test(fields) for test in tests)


def _objects(*names: str) -> Callable[[Fields], bool]:
    return lambda fields: all(isinstance(fields.get(name), dict) for name in names)


_PROMPT = _any(*(_any(_strings(name), _turns(name, "role")) for name in ("prompt", "question", "query", "input")))
_PAIRED_TURNS = _all(_turns("prompt", "role"), _turns("completion", "role"))
_QUESTIONS = _any(*(_strings(*pair) for pair in instructions.QUESTIONS))
_CHATS = "messages conversations conversation"

# The first that fits is taken, so the more particular schema stands first.
ADAPTERS: tuple[Adapter, ...] = (
    _danlu("document", Document, "text"),
    _danlu("conversation", Conversation, "messages"),
    _danlu("preference", Preference, "messages", "chosen", "rejected"),
    Adapter("text", "document", "text content", _any(_strings("text"), _strings("content")), _texts),
    Adapter("oasst", "preference", "prompt", _objects("prompt"), oasst.preferences),
    Adapter(
        "message_pairs", "preference", "prompt chosen rejected",
        _all(_turns("chosen", "role"), _turns("rejected", "role")), preferences.message_pairs,
    ),
    Adapter(
        "ranked_turns", "preference", "conversations chosen rejected system",
        _all(_turns("conversations", "from"), _objects("chosen", "rejected")), preferences.ranked_turns,
    ),
    Adapter("hh", "preference", "chosen rejected", preferences.is_hh, preferences.hh),
    Adapter(
        "comparisons", "preference", "user_input responses_and_scores",
        _all(_strings("user_input"), _turns("responses_and_scores", "score")), preferences.comparisons,
    ),
    Adapter(
        "ranked_alpaca", "preference", "instruction input chosen rejected output history system",
        _all(_strings("instruction"), _any(_strings("chosen", "rejected"), preferences.is_ranked_output)),
        preferences.ranked_alpaca,
    ),
    Adapter(
        "prompt_pairs", "preference", "prompt question query input chosen rejected system",
        _all(_PROMPT, _strings("chosen", "rejected")), preferences.prompt_pairs,
    ),
    Adapter(
        "labelled", "preference", "messages conversations prompt question query completion answer response label "
        "kto_tag system",
        _all(preferences.is_labelled, _any(_QUESTIONS, _PAIRED_TURNS, _turns("messages", "role"),
                                           _turns("conversations", "role"), _turns("conversations", "from"))),
        preferences.labelled,
    ),
    Adapter("oasst", "conversation", "prompt", _objects("prompt"), oasst.conversations),
    Adapter("moss", "conversation", "meta_instruction chat", chats.is_moss, chats.moss),
    Adapter(
        "openai", "conversation", f"{_CHATS} tools system system_prompt",
        _any(*(_turns(name, "role") for name in _CHATS.split())), chats.openai,
    ),
    Adapter(
        "sharegpt", "conversation", "conversations messages tools system system_prompt",
        _any(_turns("conversations", "from"), _turns("messages", "from")), chats.sharegpt,
    ),
    Adapter(
        "firefly", "conversation", "conversation system system_prompt",
        _turns("conversation", "human"), chats.firefly,
    ),
    Adapter("belle_turns", "conversation", "instruction input output", instructions.is_belle, instructions.belle_turns),
    Adapter(
        "alpaca", "conversation", "instruction input output history system",
        _strings("instruction", "output"), instructions.alpaca,
    ),
    Adapter(
        "dolly", "conversation", "instruction context response",
        _strings("instruction", "response"), instructions.dolly,
    ),
    Adapter(
        "firefly_tasks", "conversation", "kind input target",
        _strings("kind", "input", "target"), instructions.firefly_tasks,
    ),
    Adapter(
        "questions", "conversation", "question prompt query answer completion response system",
        _QUESTIONS, instructions.questions,
    ),
)  # fmt: skip

NESTED = frozenset(name for adapter in ADAPTERS for name in adapter.uses.split())
"""The columns in which an adapter may look for nested values."""
