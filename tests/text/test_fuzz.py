"""Whatever stands in a row, it becomes a sound record or a bad row with a reason: never a traceback."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from danlu.text.adapters.table import ADAPTERS, NESTED, choose, kinds
from danlu.text.ops.contents import text_of
from danlu.text.ops.normalise import normalise
from danlu.text.ops.table import OPERATORS
from danlu.text.problems import BadRow
from danlu.text.records import Conversation, content_hash
from danlu.text.settings import KINDS, Step
from danlu.text.steps.basic import NormaliseStep
from danlu.text.structure import checked

STEP: TypeAdapter[Any] = TypeAdapter(Step)
LISTED = {"lists": ["danlu:boilerplate"]}
NEEDED: dict[str, dict[str, Any]] = {
    "keywords": {**LISTED, "count": {"max": 0}},
    "unsuitable": LISTED,
    "history": {"characters": 50},
}
WORDS = st.sampled_from([
    "human", "gpt", "user", "assistant", "system", "tool", "function_call", "document", "conversation", "preference",
    "问", "", " ", "[]", "[{}]", "{", "None", '{"name": "f"}',
    "Human: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "Human:a\nAssistant:",
])  # fmt: skip
KEYS = st.sampled_from([
    "role", "content", "from", "value", "human", "assistant", "type", "text", "tool_calls", "function", "name", "id",
    "arguments", "replies", "rank", "meta", "weight", "turn_1", "turn_x", "Human", "MOSS", "Commands", "response",
    "score",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {}, optional={"role": WORDS, "content": VALUES, "from": WORDS, "value": VALUES, "tool_calls": VALUES}
)
COLUMNS = st.sampled_from(sorted(NESTED | {"label", "kto_tag"}))
ROWS = st.dictionaries(COLUMNS, VALUES | st.lists(TURN, max_size=3), max_size=5)


def shapes(row: dict[str, Any]) -> None:
    for kind in KINDS:
        with contextlib.suppress(BadRow):
            for record in choose(row, kind).read(row):
                sound, _ = checked(record)
                sound = normalise(sound, NormaliseStep())
                assert json.loads(json.dumps(sound.to_row())) == sound.to_row()
                assert isinstance(content_hash(sound), int) and isinstance(text_of(sound), str)
                assert kinds(row)
                if isinstance(sound, Conversation):
                    assert sound.messages[-1]["role"] == "assistant"
                for name, operator in OPERATORS.items():
                    if operator.measure:
                        step = STEP.validate_python({"op": name, **NEEDED.get(name, {})})
                        columns = operator.measure([sound], step)
                        assert columns and {len(column) for column in columns.values()} == {1}


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_any_row(row: dict[str, Any]) -> None:
    shapes(row)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(ADAPTERS))
def test_rows_with_the_columns_of_an_adapter(data: st.DataObject, adapter: Any) -> None:
    value = VALUES | WORDS | st.lists(TURN, min_size=1, max_size=3)
    shapes({name: data.draw(value) for name in adapter.uses.split()})
