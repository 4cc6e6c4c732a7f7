"""Decontamination against plain Python: which test item stands in a record, how much of it, and what a cut leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from gathered import gather, meta_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import class_of, words_of
from test_near_dedup import folded

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.text.clean import clean
from danlu.text.kernels import Class
from danlu.text.ops import evaluation_index
from danlu.text.ops.contents import text_of
from danlu.text.ops.decontaminate import edit, judge
from danlu.text.readers import read_rows
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.settings import CleanSettings
from danlu.text.steps.base import Range
from danlu.text.steps.duplicates import DecontaminateStep

QUESTION = "If a train leaves the station at noon and travels sixty miles an hour, when does it reach the next town?"
FRAGE = "下列关于光合作用的叙述中，哪一项正确地说明了叶绿体在暗反应阶段所起的作用及其与光照强度之间的关系？"
FILLER = "Nothing in this paragraph has been asked anywhere. 这一段话里没有任何考题。\n"


def step(path: Path | dict[str, Any] | list[Any], **how: Any) -> DecontaminateStep:
    tests = [str(path)] if isinstance(path, Path) else path if isinstance(path, list) else [path]
    return check(DecontaminateStep, {"op": "decontaminate", "tests": tests, **how})


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def letters(words: list[str]) -> int:
    return sum(len(c.encode()) for word in words for c in word if Class.LETTER <= class_of(c) <= Class.FUNCTION)


def runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def plain(text: str, items: list[list[str]], n: int, evidence: int, shortest: int) -> dict[int, tuple[int, float]]:
    """{item: (n-grams of it in the text, their share)} by sets of tuples."""
    words, written, found = folded(text), words_of(text), {}
    for number, strings in enumerate(items):
        grams = {gram for string in strings for gram in runs(folded(string), n)}
        if grams:
            first = {}
            for at, gram in enumerate(runs(words, n)):
                if gram in grams:
                    first.setdefault(gram, at)
            covered = sorted({place for at in first.values() for place in range(at, at + n)})
            if first and letters([written[at] for at in covered]) >= evidence:
                found[number] = (len(first), len(first) / len(grams))
            continue
        string = max(strings, key=lambda string: len(words_of(string)), default="")
        longest = folded(string)
        if longest and letters(words_of(string)) >= shortest and tuple(longest) in runs(words, len(longest)):
            found[number] = (1, 1.0)
    return found


TOKENS = st.lists(st.sampled_from([*"abC你好Ｄ天,。", "e12"]), max_size=14)
STRINGS = TOKENS.map(" ".join)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(STRINGS, max_size=20),
    st.lists(st.lists(STRINGS, max_size=3), min_size=1, max_size=5),
    st.integers(2, 4),
    st.sampled_from([1, 8]),
    st.sampled_from([1, 4]),
)
def test_small_corpora_equal_plain_python(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    items: list[list[str]],
    ngram: int,
    evidence: int,
    shortest: int,
) -> None:
    folder = tmp_path_factory.mktemp("tests")
    jsonl(folder / "exam.jsonl", [{"n": at, "strings": strings} for at, strings in enumerate(items)])
    how = step(folder / "exam.jsonl", ngram=ngram, evidence=evidence, shortest=shortest)
    found = gather(texts, how, folder / "found", 9)
    for at, text in enumerate(texts):
        wanted = plain(text, items, ngram, evidence, shortest)
        assert (at in found) == bool(wanted)
        if wanted:
            best = min(wanted, key=lambda item: (-wanted[item][1], item))
            values = found[at]
            assert values["item"] == f"exam.jsonl:{best + 1}" and values["tests"] == ["exam"]
            assert (values["matches"], values["share"]) == (wanted[best][0], pytest.approx(wanted[best][1]))
            assert values["passage"] in text
    short = [s for s in items if not plain(" ".join(s), [s], ngram, 1, shortest)]
    counts = meta_of(folder / "found")["tests"] if texts else {}
    assert not texts or counts.get(evaluation_index.TOO_SHORT, {"count": 0})["count"] <= len(short)


@pytest.mark.parametrize("written", [QUESTION.upper(), QUESTION.replace(" ", "\n"), FRAGE.replace("，", ","), FRAGE])
def test_questions_are_found_in_any_writing_and_named(tmp_path: Path, written: str) -> None:
    rows = [
        {"id": 1, "question": "Who wrote this?"},
        {"question": QUESTION},
        {"question": FRAGE, "choices": ["A", "B"]},
    ]
    exam = jsonl(tmp_path / "exam.jsonl", rows)
    texts = [FILLER * 30, FILLER * 20 + written + FILLER]
    found = gather(texts, step(exam), tmp_path / "found")
    assert set(found) == {1}
    values = found[1]
    line = 3 if "光合作用" in written else 2
    assert (values["item"], values["share"], values["test"]) == (f"exam.jsonl:{line}", 1.0, "exam")
    assert values["passage"] == written.rstrip("?？")
    assert judge(values, step(exam)) == (
        "test item",
        {name: values[name] for name in ("test", "item", "passage", "matches", "share")},
    )


def test_thresholds() -> None:
    values = {"test": "t", "item": "i", "passage": "p", "matches": 3, "share": 0.4}
    tests = [{"path": "x"}]
    assert judge(values, step(tests)) is not None
    assert judge(values, step(tests, share={"max": 0.4})) is None
    assert judge({**values, "share": 1e-9}, step(tests, share={"max": 0})) is not None
    assert judge(dict.fromkeys(values), step(tests)) is None
    assert judge(values, step(tests, action="cut")) is None
    assert step(tests).gathering() == step(tests, share={"max": 0}).gathering()
    assert step(tests, action="cut").gathering() != step(tests, action="cut", share={"max": 0}).gathering()


def test_set_phrases_of_thirteen_characters_are_no_evidence(tmp_path: Path) -> None:
    phrase = "全国人民代表大会常务委员会"
    exam = jsonl(tmp_path / "exam.jsonl", [{"question": "谁来解释宪法？", "choices": [phrase, "国务院"]}])
    text = f"本法由{phrase}通过。"
    assert gather([text], step(exam), tmp_path / "a") == {}
    assert gather([text], step(exam, evidence=1), tmp_path / "b")[0]["share"] == 1.0


def test_short_items_are_matched_whole_or_counted(tmp_path: Path) -> None:
    short = "What is the chemical symbol for the element potassium?"
    exam = jsonl(tmp_path / "exam.jsonl", [{"q": short, "a": "K"}, {"q": "Why?"}, {"q": ""}, {"n": 3}])
    texts = [f"Quiz: {short.lower()} K", short.replace("potassium", "sodium"), "Why? Why? Why?"]
    found = gather(texts, step(exam), tmp_path / "found")
    assert {at: (values["item"], values["share"]) for at, values in found.items()} == {0: ("exam.jsonl:1", 1.0)}
    counts = meta_of(tmp_path / "found")["tests"]
    assert counts["items"]["count"] == 4
    assert counts[evaluation_index.TOO_SHORT] == {"count": 3, "examples": [f"exam exam.jsonl:{n}" for n in (2, 3, 4)]}


def test_all_forms_of_files_and_fields(tmp_path: Path) -> None:
    folder = tmp_path / "exams"
    (folder / "deep").mkdir(parents=True)
    nested = {"messages": [{"role": "user", "content": QUESTION}], "meta": {"note": "x"}}
    jsonl(folder / "a.jsonl", [nested])
    pa.parquet.write_table(pa.Table.from_pylist([{"q": "no"}, {"q": FRAGE}]), folder / "b.parquet")
    with (folder / "deep" / "c.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["id", "q"], ["1", QUESTION[::-1]]])
    (folder / "d.txt").write_text(f"first paragraph\n\n{FRAGE[::-1]}\n", "utf-8")
    texts = [QUESTION, FRAGE, QUESTION[::-1], FRAGE[::-1]]
    found = gather(texts, step(folder), tmp_path / "found")
    assert [found[at]["item"] for at in range(4)] == ["a.jsonl:1", "b.parquet:2", "deep/c.csv:2", "d.txt:3"]
    assert [found[at]["test"] for at in range(4)] == ["a", "b", "c", "d"]
    one = step([{"path": str(folder / "b.parquet"), "name": "biology", "fields": ["q"]}, str(folder / "a.jsonl")])
    found = gather(texts, one, tmp_path / "two")
    assert {at: values["test"] for at, values in found.items()} == {0: "a", 1: "biology"}


def test_only_named_fields_count(tmp_path: Path) -> None:
    exam = jsonl(tmp_path / "exam.jsonl", [{"passage": FRAGE, "question": QUESTION, "list": [{"deep": "x"}]}])
    whole = gather([FRAGE, QUESTION], step(exam), tmp_path / "a")
    assert all(values["share"] < 1 for values in whole.values()) and len(whole) == 2
    named = gather([FRAGE, QUESTION], step({"path": str(exam), "fields": ["question"]}), tmp_path / "b")
    assert {at: values["share"] for at, values in named.items()} == {1: 1.0}


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (None, [], "no such file or folder"),
        ([], [], "no rows to look for"),
        ([{"q": "x"}], ["question"], "no row has the column question"),
    ],
)
def test_tests_that_cannot_be_used(tmp_path: Path, rows: Any, fields: list[str], message: str) -> None:
    path = tmp_path / "exam.jsonl"
    if rows is not None:
        jsonl(path, rows)
    with pytest.raises(UserError, match=message):
        gather([QUESTION], step({"path": str(path), "fields": fields}), tmp_path / "found")


def test_bad_rows_of_tests_are_counted(tmp_path: Path) -> None:
    exam = tmp_path / "exam.jsonl"
    exam.write_bytes(b"{broken\n" + json.dumps({"q": QUESTION}).encode() + b"\n[1]\n\xff\xfe\n")
    assert gather([QUESTION], step(exam), tmp_path / "found")[0]["item"] == "exam.jsonl:2"
    counts = meta_of(tmp_path / "found")["tests"]
    assert sum(entry["count"] for reason, entry in counts.items() if reason.startswith("bad: ")) == 3


def cut(records: list[Any], how: DecontaminateStep, folder: Path) -> list[str]:
    found = gather(records, how, folder)
    made: list[Record] = [Document(record) if isinstance(record, str) else record for record in records]
    return [text_of(edit(record, found[at], how)) if at in found else text_of(record) for at, record in enumerate(made)]


@pytest.mark.parametrize(
    ("context", "left"),
    [
        (0, "One two three. \n Four five six. \n Seven eight."),
        (1, "One two three.\nFour five six.\nSeven eight."),
        (3, "One two \n five \n eight."),
        (6, "One two \nfive\n eight."),
        (99, ""),
    ],
)
def test_a_cut_splits_no_words(tmp_path: Path, context: int, left: str) -> None:
    """Context takes characters; a word that it reaches into goes as a whole."""
    body = QUESTION.rstrip("?")
    exam = jsonl(tmp_path / "exam.jsonl", [{"question": QUESTION}])
    text = f"One two three. {body} Four five six. {body} Seven eight."
    assert cut([text], step(exam, action="cut", context=context), tmp_path / "found") == [left]


def test_a_cut_leaves_what_is_below_the_bounds(tmp_path: Path) -> None:
    exam = jsonl(tmp_path / "exam.jsonl", [{"question": QUESTION}, {"question": FRAGE + QUESTION[::-1] * 3}])
    how = step(exam, action="cut", context=0, share={"max": 0.7})
    texts = [f"甲。{QUESTION}乙。{FRAGE}丙。", FRAGE]
    assert cut(texts, how, tmp_path / "found") == [f"甲。\n?乙。{FRAGE}丙。", FRAGE]


def test_a_cut_reaches_over_messages(tmp_path: Path) -> None:
    exam = jsonl(tmp_path / "exam.jsonl", [{"question": f"{FRAGE} {QUESTION}"}])
    user, answer = {"role": "user", "content": f"请问{FRAGE}"}, {"role": "assistant", "content": f"{QUESTION} 好。"}
    records: list[Record] = [
        Conversation([user, answer]),  # type: ignore[list-item]
        Preference([user], [answer], [{"role": "assistant", "content": "不知道。"}]),  # type: ignore[list-item]
    ]
    left = cut(records, step(exam, action="cut", context=0), tmp_path / "found")
    assert left == ["请问\n? 好。", "请问\n? 好。\n不知道。"]


def test_the_cut_into_tasks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exam = jsonl(tmp_path / "exam.jsonl", [{"q": QUESTION + f" Case {n}."} for n in range(40)] + [{"q": FRAGE}] * 3)
    texts = [f"{FILLER}{QUESTION} Case {n}. {FRAGE if n % 3 else ''}" for n in range(60)]
    whole = gather(texts, step(exam, action="cut"), tmp_path / "whole")
    monkeypatch.setattr("danlu.text.ops.sorted_files.STRETCH", 50)
    monkeypatch.setattr("danlu.text.ops.decontaminate._BATCH", 300)
    monkeypatch.setattr(evaluation_index, "_BATCH", 300)
    monkeypatch.setattr(evaluation_index, "_SLICE_BYTES", 100)
    again = gather(texts, step(exam, action="cut"), tmp_path / "cut", 7)
    assert len(whole) == 60 and whole.keys() == again.keys()
    for at, values in whole.items():
        assert {**again[at], "task": 0, "row": at} == values


def test_a_phrase_of_the_form_names_few_items(tmp_path: Path) -> None:
    form = "Answer the following multiple choice question by giving the letter of the one right option only."
    exam = jsonl(tmp_path / "exam.jsonl", [{"q": f"{form} {n} {QUESTION}"} for n in range(100)])
    found = gather([form], step(exam, share=Range(max=0).model_dump()), tmp_path / "found")
    assert found[0]["item"] == "exam.jsonl:1"


@pytest.mark.parametrize("texts", [[], [""] * 30, ["一", "a", "？"]])
def test_texts_without_an_n_gram(tmp_path: Path, texts: list[str]) -> None:
    exam = jsonl(tmp_path / "exam.jsonl", [{"q": QUESTION}])
    assert gather(texts, step(exam), tmp_path / "found") == {}


def test_through_clean(tmp_path: Path) -> None:
    exam = jsonl(tmp_path / "exam.jsonl", [{"q": QUESTION}, {"q": FRAGE}])
    rows = [{"text": f"{FILLER}{n}"} for n in range(20)] + [{"text": FILLER + FRAGE}]
    source = {"path": str(jsonl(tmp_path / "web.jsonl", rows))}
    steps = [{"op": "decontaminate", "tests": [str(exam)]}]
    clean(check(CleanSettings, {"sources": [source], "steps": steps, "workers": 1}), tmp_path / "out")
    [row] = [row.fields for row in read_rows(tmp_path / "out" / "dropped")]
    assert (row["step"], row["reason"], row["value"]["item"]) == ("decontaminate", "test item", "exam.jsonl:2")
    jsonl(exam, [{"q": QUESTION}])
    clean(check(CleanSettings, {"sources": [source], "steps": steps, "workers": 1}), tmp_path / "out")
    assert list(read_rows(tmp_path / "out" / "dropped")) == []
