"""Conditions on columns, and what is held out."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.text.holdout import is_held_out
from danlu.text.records import Conversation, Document, content_hash
from danlu.text.select import Condition

ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
NUMBER = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
WORD = st.text(st.characters(codec="utf-8", exclude_characters="'\"\\", exclude_categories=["Z", "C"]), min_size=1)


def holds(text: str, **fields: Any) -> bool | None:
    return Condition.parse(text).holds(fields)


@given(value=NUMBER, bound=NUMBER, sign=st.sampled_from([*ORDER]), as_text=st.booleans())
def test_numbers_compare_as_in_python(value: float, bound: float, sign: str, as_text: bool) -> None:
    """Also where the cell is text, as in CSV files."""
    assert holds(f"score {sign} {bound!r}", score=repr(value) if as_text else value) is ORDER[sign](value, bound)


@given(
    values=st.lists(WORD, min_size=1, max_size=4), probe=WORD, column=st.sampled_from(["语言", "a.b", "x-in-y", "in"])
)
def test_lists_of_words(values: list[str], probe: str, column: str) -> None:
    listed = ", ".join(f"'{value}'" for value in values)
    fields = {column: probe}
    assert Condition.parse(f"{column} in {listed}").holds(fields) is (probe in values)
    assert Condition.parse(f"{column} not in {listed}").holds(fields) is (probe not in values)
    assert Condition.parse(f"{column} == '{probe}'").holds(fields) is True


@pytest.mark.parametrize(
    ("text", "fields", "wanted"),
    [
        ("langdetect == zh-cn", {"langdetect": "zh-cn"}, True),
        ("langdetect == zh-cn", {"langdetect": "en"}, False),
        ('source in "a, b", c', {"source": "a, b"}, True),
        ("label.ability_en in math, coding", {"label": {"ability_en": ["logic", "coding"]}}, True),
        ("label.ability_en not in math, coding", {"label": {"ability_en": ["logic", "coding"]}}, False),
        ("reward >= 3", {"meta": {"reward": 3.5}}, True),
        ("label.x == 1", {"label.x": 1}, True),
        ("safe == true", {"safe": True}, True),
        ("safe == true", {"safe": "True"}, True),
        ("safe == true", {"safe": 1}, False),
        ("note == null", {"note": None}, True),
        ("note != null", {"note": "x"}, True),
        ("reward >= 3", {"other": 4}, None),
        ("reward >= 3", {"reward": None}, None),
        ("reward >= 3", {"reward": "nan"}, False),
        ("text == __import__('os').getcwd()", {"text": "a"}, False),
    ],
)
def test_conditions(text: str, fields: dict[str, Any], wanted: bool | None) -> None:
    assert Condition.parse(text).holds(fields) is wanted


@pytest.mark.parametrize("text", ["", "score", "score >=", ">= 3", "score > high", "score = 3", 'a in "b" c'])
def test_what_is_no_condition_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        Condition.parse(text)


@given(texts=st.lists(st.text(max_size=5)), low=st.floats(0, 1), high=st.floats(0, 1))
def test_held_out_depends_on_content_alone_and_grows_with_the_share(texts: list[str], low: float, high: float) -> None:
    low, high = sorted((low, high))
    for text in texts:
        record_hash = content_hash(Document(text, "a", {"n": 1}))
        assert record_hash == content_hash(Document(text, "b"))
        assert not is_held_out(record_hash, 0) and is_held_out(record_hash, 1)
        assert is_held_out(record_hash, high) or not is_held_out(record_hash, low)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_held_out_is_the_share_asked_for(share: float) -> None:
    number = 20_000
    held_out = sum(is_held_out(content_hash(Document(f"文 {n}")), share) for n in range(number))
    assert abs(held_out / number - share) < 5 * (share * (1 - share) / number) ** 0.5


def test_hashes_are_the_same_in_every_release() -> None:
    """What was held out of one run must not be trained on in the next."""
    assert content_hash(Document("丹炉 danlu 🙂")) == 6874594514013960244
    assert content_hash(Conversation([{"role": "user", "content": "问"}])) == 5513634876425625445
