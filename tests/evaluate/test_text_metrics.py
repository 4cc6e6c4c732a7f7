"""Exact match, BLEU and ROUGE, errors: by hand and against the libraries themselves."""

from __future__ import annotations

import math

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from danlu.evaluate.exact_match import exact_match, matches, normalise
from danlu.evaluate.overlap import CharacterTokens, overlap
from danlu.evaluate.rows import language_of
from danlu.evaluate.statistics import at_chance, macro, standard_error, wilson


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("李白。", "李白"),
        ("　李 白！", "李白"),
        ("ＡＢＣ１２", "abc12"),
        ("The Green-Bean cake.", "the green bean cake"),
        ("１，２３４", "1234"),
        ("-3.5", "－３.５"),
        ("3 加 5 等于 8。", "3加5等于8"),
        ("“绿豆糕”", "绿豆糕"),
        ("she said: “Yes!”", "She said yes"),
    ],
)
def test_the_same_answer_written_otherwise(answer: str, accepted: str) -> None:
    assert matches(answer, ["nothing", accepted])


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("3.5", "35"),
        ("-3", "3"),
        ("李白是诗人", "李白"),
        ("绿豆糕🍵", "绿豆糕"),
        ("", "李白"),
        ("new york", "newyork"),
        ("1,5", "15"),
    ],
)
def test_another_answer(answer: str, accepted: str) -> None:
    assert not matches(answer, [accepted])


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_shares_by_kind_and_language() -> None:
    rows = [
        {"kind": kind, "language": language, "right": right}
        for kind, language, right in [
            ("sum", "en", True),
            ("sum", "zh", False),
            ("relation", "en", True),
            ("sum", "en", False),
        ]
    ]
    result = exact_match(rows)
    assert (result["accuracy"], result["n"]) == (0.5, 4)
    assert result["stderr"] == pytest.approx(math.sqrt(0.25 / 3))
    assert result["kind"]["sum"]["en"]["accuracy"] == 0.5
    assert result["kind"]["relation"] == {"en": result["kind"]["relation"]["en"]}
    assert result["language"]["zh"]["n"] == 1


def test_wilson_interval() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))


def test_chance_and_macro() -> None:
    assert at_chance(0.26, 0.25, 1000)
    assert not at_chance(0.30, 0.25, 1000)
    assert standard_error(0.5, 101) == pytest.approx(0.05)
    assert standard_error(1.0, 1) == 0.5
    mean, error = macro([(0.5, 101), (1.0, 50)])
    assert (mean, error) == (0.75, pytest.approx(0.025))


ENGLISH = ["The cat sat on the mat.", "Mung bean cake is a sweet snack from China."]
ENGLISH_REFERENCES = [
    ["A cat sat on the mat.", "There is a cat on the mat."],
    ["Mung bean cake is a Chinese sweet snack."],
]
CHINESE = ["李白是唐代的诗人。", "绿豆糕用python做不出来，是一种糕点。"]
CHINESE_REFERENCES = [["李白是唐代著名诗人。"], ["绿豆糕是一种传统糕点。"]]


def test_english_agrees_with_the_libraries() -> None:
    result = overlap(ENGLISH, ENGLISH_REFERENCES, "en")
    streams = [[texts[0] for texts in ENGLISH_REFERENCES], ["There is a cat on the mat.", None]]
    assert result["bleu"] == pytest.approx(sacrebleu.corpus_bleu(ENGLISH, streams).score)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    best = [
        max(scorer.score(reference, answer)["rougeL"].fmeasure for reference in references)
        for answer, references in zip(ENGLISH, ENGLISH_REFERENCES, strict=True)
    ]
    assert result["rougeL"] == pytest.approx(100 * sum(best) / 2)
    assert "tok:13a" in result["signature"]


def test_chinese_counts_characters() -> None:
    result = overlap(CHINESE, CHINESE_REFERENCES, "zh")
    assert result["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(CHINESE, [[texts[0] for texts in CHINESE_REFERENCES]], tokenize="zh").score
    )
    # 8 characters against 9, of which 7 (all but 的) are shared.
    assert overlap(CHINESE[:1], CHINESE_REFERENCES[:1], "zh")["rouge1"] == pytest.approx(100 * 2 * 7 / (8 + 9))
    assert "tok:zh" in result["signature"]
    assert "tok:characters" in result["signature"]


def test_characters_and_words_of_mixed_text() -> None:
    assert CharacterTokens().tokenize("用Python写，ok_😀 2 次") == ["用", "python", "写", "ok", "2", "次"]


def test_an_identical_answer_is_perfect() -> None:
    result = overlap(CHINESE, [[text] for text in CHINESE], "zh")
    assert [result[name] for name in ("bleu", "rouge1", "rouge2", "rougeL")] == pytest.approx([100] * 4)
    with pytest.raises(ValueError, match="as many"):
        overlap(CHINESE, [], "zh")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("李白是谁?", "zh"),
        ("绿豆糕", "zh"),
        ("who are you?", "en"),
        ("用 print 打印", "zh"),
        ("", "en"),
        ("😀 123", "en"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert language_of(text) == language
