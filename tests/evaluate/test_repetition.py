"""Loops and repeated n-grams on hand-made cases in both languages, and on sequences built to loop or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.evaluate.repetition import Answer, is_loop, loop_period, repetition, seq_rep


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("我喜欢绿豆糕，我喜欢绿豆糕，我喜欢绿豆糕，", 7),
        ("李白是唐代诗人。李白是唐代诗人。李白是唐代诗人。李白是", 8),
        ("who are you? who are you? who are you? ", 13),
        ("then the cat, the cat, the cat, the", 9),
        ("好😀好😀好😀", 2),
        ("👍👍👍👍👍👍", 2),
        ("哈哈哈哈哈哈", 2),
        ("哈哈哈哈哈", None),
        ("好的好的好的，再见", None),
        ("ha ha ha", None),
        ("床前明月光，疑是地上霜。举头望明月，低头思故乡。", None),
        ("", None),
        ("a", None),
    ],
)
def test_the_period_of_the_ending(text: str, period: int | None) -> None:
    assert loop_period(text) == period
    assert is_loop(text) == (period is not None)
    assert loop_period([ord(character) for character in text]) == period


def test_only_the_last_200_units_count() -> None:
    phrase = list(range(66))
    assert loop_period(phrase * 3) == 66
    assert loop_period([*phrase, 66] * 5) is None  # 67 units three times are 201


def naive_loop(units: list[int]) -> bool:
    tail = units[-200:]
    return any(
        all(tail[len(tail) - 1 - i] == tail[len(tail) - 1 - i - period] for i in range(2 * period))
        for period in range(2, len(tail) // 3 + 1)
    )


@given(st.lists(st.integers(0, 2), max_size=40))
def test_agrees_with_the_definition_spelled_out(units: list[int]) -> None:
    assert is_loop(units) == naive_loop(units)


@given(
    st.lists(st.integers(), max_size=20),
    st.lists(st.integers(), min_size=2, max_size=30),
    st.integers(3, 6),
    st.integers(0, 29),
)
def test_a_repeated_ending_is_found_wherever_it_is_cut(
    before: list[int], phrase: list[int], times: int, cut: int
) -> None:
    period = loop_period(before + phrase * times + phrase[: cut % len(phrase)])
    assert period is not None
    assert period <= len(phrase)


@given(st.lists(st.integers(), unique=True, max_size=50))
def test_distinct_units_never_repeat(units: list[int]) -> None:
    assert not is_loop(units)
    assert seq_rep(units) == 0


@pytest.mark.parametrize(
    ("units", "n", "value"),
    [("abcdabcd", 4, 1 - 4 / 5), ("aaaaa", 4, 0.5), ("你好你好你好", 2, 1 - 2 / 5), ("abc", 4, 0), ("", 4, 0)],
)
def test_seq_rep_by_hand(units: str, n: int, value: float) -> None:
    assert seq_rep(units, n) == pytest.approx(value)


def test_the_summary_counts_tokens_and_characters_apart() -> None:
    answers = [
        Answer([1, 2] * 3, "好的好的好的 \n", ended=False),
        Answer([5, 6, 7], "nonono nonono", ended=True),
        Answer([1, 2, 3, 4], "It is 🍵.", ended=True),
        Answer([9], "绿豆糕", ended=True),
    ]
    result = repetition(answers)
    assert result["n"] == 4
    assert result["loop_rate"] == 0.25
    assert result["loop_rate_characters"] == 0.5
    assert result["ends"] == 0.75
    assert result["mean_tokens"] == 3.5
    assert result["loop_rate_stderr"] == pytest.approx((0.25 * 0.75 / 4) ** 0.5)
    assert result["seq_rep_4"] == pytest.approx((1 - 2 / 3) / 4)


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        repetition([])
