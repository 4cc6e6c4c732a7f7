"""The page about a classifier says what its figures are, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from danlu.report import classifier
from danlu.report.scores import Table
from danlu.report.tokenizers import write_page
from danlu.report.words import Language
from danlu.text.classifiers.labelled import Example

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def judged() -> classifier.Tested:
    labels = ["good", "spam"]
    examples = [Example(f"第{n}行", labels[n % 2], f"a.jsonl:{n + 1}") for n in range(20)]
    sure = np.array([0.9 if n % 2 == 0 else 0.2 for n in range(20)])
    sure[3] = 0.8  # a mistake
    return classifier.Tested(examples, np.stack([sure, 1 - sure], 1), labels)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_heads_of_a_classifiers_page_are_in_its_language(language: Language) -> None:
    found = classifier.sections(judged(), 0.9, language)
    heads = {head for tables in found.values() for table in tables for head in table.head} - {"F1"}
    assert all(bool(CHINESE.search(head)) == (language == "zh") for head in heads), heads
    expected = {"en": "threshold for precision ≥ 90.0%", "zh": "精确率 ≥ 90.0% 的阈值"}[language]
    assert expected in heads, "0.9 is the precision asked for, not the threshold"
    assert [row[3] for row in found["mistakes"][0].rows] == ["a.jsonl:4"]


def test_short_words_stay_whole_and_long_ones_break(tmp_path: Path) -> None:
    tokens = " │ ".join(["<E7><BB>"] * 6)
    rows = [["短", tokens, 1], ["a" * 50, "x", 2]]
    write_page({"density": [Table("t", ["a", "b", "c"], rows, 2)]}, "t", "zh", tmp_path / "page.html")
    classes = re.findall(r'<td class="([^"]*)"', (tmp_path / "page.html").read_text("utf-8"))
    assert classes == ["word name", "words", "r", "words name", "word", "r"]
