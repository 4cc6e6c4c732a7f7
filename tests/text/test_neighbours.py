"""The step neighbours against a loop over pairs, and what it is for; keyword lists that come with danlu."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.text.ops import keywords, ranges
from danlu.text.ops.neighbours import measure
from danlu.text.records import Document
from danlu.text.steps.base import Range
from danlu.text.steps.statistics import NEIGHBOURS, KeywordsStep, NeighboursStep

STEP = NeighboursStep()
FOLLOWERS = {line[0]: set(line[2:]) for line in NEIGHBOURS.read_text("utf-8").splitlines()}


def plain(text: str) -> tuple[float, float]:
    """Letters of ASCII and simplified characters alone, pair by pair."""
    latin, han = [], []
    for left, right in pairwise(text):
        usual = right.lower() in FOLLOWERS.get(left.lower(), ())
        if left.isascii() and right.isascii() and left.isalpha() and right.isalpha() and not right.isupper():
            latin.append(usual)
        elif "一" <= left <= "鿿" and "一" <= right <= "鿿":
            han.append(usual)
    shares = [sum(pairs) / len(pairs) if len(pairs) >= max(40, len(text) / 10) else math.nan for pairs in (latin, han)]
    return shares[0], shares[1]


@given(st.lists(st.text("abcdeQUIThz 的一是在不了有和人这中大为上个国我以要他龘，。\n😀"), max_size=5))
def test_shares_are_those_of_a_plain_loop(texts: list[str]) -> None:
    texts = [text * 5 for text in texts]
    found = measure([Document(text) for text in texts], STEP)
    for place, text in enumerate(texts):
        expected = plain(text)
        assert found["latin"][place] == pytest.approx(expected[0], nan_ok=True)
        assert found["han"][place] == pytest.approx(expected[1], nan_ok=True)


def reason(text: str) -> str | None:
    found = measure([Document(text)], STEP)
    verdict = ranges.judge({name: column[0] for name, column in found.items()}, STEP)
    return verdict and verdict[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("The council met on Friday to look at the plans for a new bridge, and nobody objected.", None),
        ("for name, value in sorted(self.columns.items()): yield name, value.astype(np.float64)", None),
        (
            "使用 SQL 与 PDF 的 API、HTTP、XML、JSON、CSV、FVWM、PTSD、EMDR、GPS、TWM、RAG、CPU、GPU、LLM、DNS。",
            None,
        ),
        ("臣亮言先帝創業未半而中道崩殂今天下三分益州疲弊此誠危急存亡之秋也然侍衛之臣不懈於內", None),
        ("hjkdf sdkfjh wqeiuy zxmcnb qpwoei zxcvlkj asdpqow mznxbc qwpeoi hgfjkd xcvmn", "latin too low"),
        (
            "駂豹穎牄說账搔孿梨嫍擜蕹膪剎硻湘馉惂鐲榑陣蜙泞螅緀询絟澱駥橇繯応髲冡衇夐糮賓橆鼨覾席亍斃趬鳵孚廖淓",
            "han too low",
        ),
        ("测得的长度是 " + "、".join(f"{n} cm 或 {n} mm，也就是这根木头从左边到右边的长度" for n in range(40)), None),
        ("短", None),
        ("", None),
    ],
)
def test_noise_is_found_and_text_is_not(text: str, why: str | None) -> None:
    assert reason(text) == why


def test_upper_and_lower_case_are_the_same_and_traditional_counts_as_simplified() -> None:
    traditional = measure([Document("這個國家的人民從來沒有見過這樣的事情我們應該怎麼說呢" * 3)], STEP)["han"]
    simplified = measure([Document("这个国家的人民从来没有见过这样的事情我们应该怎么说呢" * 3)], STEP)["han"]
    assert traditional[0] == simplified[0] > 0.5


def test_boilerplate_is_many_phrases_close_together() -> None:
    step = KeywordsStep(lists=["danlu:boilerplate"], least=3, density=Range(max=12))
    texts = [
        "We use cookies to enhance your experience. Accept all cookies or manage preferences in the cookie settings.",
        "立即购买，限时优惠，全网最低，包邮！点击领取优惠券，先到先得！",
        "在线购物车系统有许多好处：购物车友好且易于使用，购物车还提供数据，购物车很安全。",
        "The law on cookies says that whoever reads this may click here.",
    ]
    found = keywords.measure([Document(text) for text in texts], step)
    verdicts = [keywords.judge({name: column[place] for name, column in found.items()}, step) for place in range(4)]
    assert [verdict and verdict[0] for verdict in verdicts] == ["density too high", "density too high", None, None]
    assert step.bounds() == {}, "density does not decide alone"
