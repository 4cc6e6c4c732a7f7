"""What `read_records` takes, mends, leaves out and refuses, with every row accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.records import Conversation, Document, Preference
from danlu.text.settings import CleanSettings, Kind, SourceSettings
from danlu.text.source import read_records
from danlu.text.structure import checked

CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: str | Path, kind: Kind = "document", **settings: Any) -> tuple[list[Any], dict[str, int]]:
    counts = Counts()
    records = list(read_records(SourceSettings(path=str(path), **settings), kind, counts))
    return records, {reason: entry["count"] for reason, entry in counts.as_dict().items()}


def turns(*roles: str) -> list[dict[str, Any]]:
    """u(ser), a(ssistant), s(ystem), t(ool), c(all), e(mpty answer), blank s(y)stem."""
    made = {
        "u": {"role": "user", "content": "问"},
        "a": {"role": "assistant", "content": "answer"},
        "s": {"role": "system", "content": "S"},
        "y": {"role": "system", "content": " "},
        "t": {"role": "tool", "content": ""},
        "c": {"role": "assistant", "content": "", "tool_calls": [CALL]},
        "e": {"role": "assistant", "content": "  "},
    }
    return [made[role] for role in "".join(roles)]


@pytest.mark.parametrize("good", ["ua", "sua", "uaua", "ucta", "ucttaua", "uc"])
def test_sound_conversations_stay_as_they_are(good: str) -> None:
    record = Conversation(turns(good))
    assert checked(record) == (record, [])


@pytest.mark.parametrize(
    ("given", "left", "note"),
    [
        ("uau", "ua", "mended: turn without an answer cut off the end"),
        ("uact", "uac", ""),
        ("yua", "ua", "mended: empty system prompt left out"),
        ("saua", "sua", "mended: answer without a question cut off the start"),
        ("aua", "ua", "mended: answer without a question cut off the start"),
    ],
)
def test_small_faults_are_mended_and_named(given: str, left: str, note: str) -> None:
    record, notes = checked(Conversation(turns(given)))
    assert isinstance(record, Conversation)
    if given == "uact":  # an answer and the call after it are one message
        assert [message["role"] for message in record.messages] == ["user", "assistant"]
        assert record.messages[1] == {**turns("a")[0], "tool_calls": [CALL]}
    else:
        assert (record.messages, notes) == (turns(left), [note])


def test_questions_in_a_row_are_joined() -> None:
    record, notes = checked(Conversation(turns("uua")))
    assert isinstance(record, Conversation)
    assert record.messages == [{"role": "user", "content": "问\n问"}, turns("a")[0]]
    assert notes == ["mended: two user messages in a row joined"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "conversation without an answer"),
        ("u", "conversation without an answer"),
        ("s", "conversation without an answer"),
        ("ssua", "two system messages"),
        ("usa", "system message after the start"),
        ("suasua", "two system messages"),
        ("ue", "empty content"),
        ("uaa", "two answers in a row"),
        ("uta", "tool result without a call"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_a_reason(tmp_path: Path, given: str, reason: str) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [{"messages": turns(given) or [{"role": "system", "content": ""}]}, {"messages": turns("ua")}],
    )
    records, counts = read(path, "conversation")
    assert len(records) == 1 and counts[f"bad: {reason}"] == 1


@pytest.mark.parametrize(
    ("messages", "chosen", "rejected", "reason"),
    [
        ("u", "a", "a", "chosen equals rejected"),
        ("", "a", "e", "preference without a question before its answers"),
        ("ua", "a", "a", "preference without a question before its answers"),
        ("u", "a", "e", "empty content"),
        ("u", "", "", "chosen equals rejected"),
        ("u", "a", "ua", "answer that is no assistant's"),
    ],
)
def test_preferences_that_compare_nothing(messages: str, chosen: str, rejected: str, reason: str) -> None:
    from danlu.text.problems import BadRow

    with pytest.raises(BadRow, match=reason):
        checked(Preference(turns(messages), turns(chosen), turns(rejected)))


@pytest.mark.parametrize(
    "unseen", ["\u200c", "\u200d\u200b\n\u3000", "\ufeff\xad\u2060", "\ufe0f\u202e", "\x00\x7f", " \t"]
)
def test_text_of_which_nothing_is_seen_is_empty(tmp_path: Path, unseen: str) -> None:
    seen = ["👨‍👩‍👧", "می‌خواهم", "क्‍ष", "。", "\u200c文", "0\ufe0f⃣"]
    path = write(tmp_path / "a.jsonl", [{"text": unseen}, *({"text": text} for text in seen)])
    records, counts = read(path)
    assert [record.text for record in records if isinstance(record, Document)] == seen
    assert counts["bad: empty text"] == 1
    talk = [{"role": "system", "content": unseen}, *turns("ua")]
    silent = [*turns("u"), {"role": "assistant", "content": unseen}]
    path = write(tmp_path / "b.jsonl", [{"messages": talk}, {"messages": silent}])
    (record,), counts = read(path, "conversation")
    assert isinstance(record, Conversation) and record.messages == turns("ua")
    assert counts["bad: empty content"] == 1 and counts["mended: empty system prompt left out"] == 1


def test_columns_become_meta_and_every_record_knows_its_origin(tmp_path: Path) -> None:
    row = {"text": "文", "score": 0.5, "source": "web", "tags": ["a"], "long": "x" * 2000, "nothing": None}
    write(tmp_path / "set" / "b" / "c.jsonl", [row])
    (record,), _ = read(tmp_path / "set")
    assert record == Document("文", "set", {"score": 0.5, "source": "web", "origin": "b/c.jsonl:1"})


def test_own_rows_keep_source_and_origin(tmp_path: Path) -> None:
    own = Document("文", "first", {"origin": "raw.json:7", "score": 1})
    path = write(tmp_path / "part-00000.jsonl", [own.to_row()])
    assert read(path)[0] == [own]
    assert read(path, name="mine")[0][0].source == "mine"
    assert read(path, where=["score > 1"])[0] == []


def test_where_and_limit_account_for_every_row(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"{n}", "n": n} for n in range(10)] + [{"text": "no number"}, {"n": 11}]
    path = write(tmp_path / "a.jsonl", rows)
    records, counts = read(path, where=["n >= 3"])
    assert [record.text for record in records] == [str(n) for n in range(3, 10)]
    assert counts == {
        "rows": 12, "records": 7, "left out: not n >= 3": 3, "left out: no value for n": 1, "bad: unknown schema": 1,
    }  # fmt: skip
    assert [record.text for record in read(path, where=["n >= 3"], limit=2)[0]] == ["3", "4"]


def test_paths_are_chosen_by_patterns(tmp_path: Path) -> None:
    for name in ("zh/high/a.jsonl", "zh/low/b.jsonl", "en/high/c.jsonl", "en/high/notes.docx"):
        write(tmp_path / name, [{"text": name}])
    assert len(read(tmp_path)[0]) == 3
    assert read(tmp_path)[1]["left out: file of another format"] == 1
    assert [r.text for r in read(tmp_path, include=["zh/*"])[0]] == ["zh/high/a.jsonl", "zh/low/b.jsonl"]
    assert [r.text for r in read(tmp_path, include=["high/*"], exclude=["en/*"])[0]] == ["zh/high/a.jsonl"]
    assert [r.text for r in read(tmp_path / "*" / "low" / "*.jsonl")[0]] == ["zh/low/b.jsonl"]
    with pytest.raises(UserError, match="leave no file"):
        read(tmp_path, include=["fr/*"])


def test_bad_answers_are_left_out_of_fine_tuning(tmp_path: Path) -> None:
    rows = [{"messages": turns("ua"), "label": label} for label in (True, False)]
    records, counts = read(write(tmp_path / "kto.jsonl", rows), "conversation")
    assert [record.meta["label"] for record in records] == [True]
    assert counts["left out: labelled as a bad answer"] == 1


def test_a_bad_row_ends_the_run_only_where_the_source_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "一"}, {"nothing": "here"}, {"text": "三"}])
    assert len(read(path)[0]) == 2
    with pytest.raises(UserError, match=r"a\.jsonl:2: unknown schema"):
        read(path, on_bad_row="stop")
    with pytest.raises(UserError, match=r"1 of 3 rows cannot be used.*a\.jsonl:2"):
        read(path, max_bad_share=0.1)


def test_a_source_of_another_schema_is_given_up_early(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"instructions": "a", "outputs": "b"}] * 1000)
    with pytest.raises(UserError, match=r"100 of 100 rows.*instructions \(str\).*alpaca"):
        read(path, "conversation")


def test_a_named_adapter_is_the_only_one_tried(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    assert len(read(path, "conversation", adapter="questions")[0]) == 1
    with pytest.raises(UserError, match="alpaca takes: instruction input output"):
        read(path, "conversation", adapter="alpaca")


def test_mistakes_in_settings_are_named() -> None:
    with pytest.raises(UserError, match="no condition"):
        check(CleanSettings, {"sources": [{"path": "a", "where": ["score high"]}]})
    with pytest.raises(UserError, match="comes twice for document"):
        check(CleanSettings, {"sources": [], "steps": [{"op": "length", "min": 1}, {"op": "length", "min": 2}]})
    with pytest.raises(UserError, match="above max"):
        check(CleanSettings, {"sources": [], "steps": [{"op": "length", "min": 3, "max": 2}]})
