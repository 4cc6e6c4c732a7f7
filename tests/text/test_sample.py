"""The generated world: the same for a seed, held-out combinations never asked, every fact stated, loops as stated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.evaluate.repetition import is_loop
from danlu.text.records import Conversation, Document, Preference, content_hash
from danlu.text.sample import SampleSettings, sample
from danlu.text.sample.conversations import loop
from danlu.text.sample.lexicon import LANGUAGES, Language
from danlu.text.sample.world import Fact, make_world

Rows = list[dict[str, Any]]
SETTINGS = SampleSettings(documents=4000, conversations=1200, preferences=400)
WORLD = make_world(SETTINGS)


def rows(folder: Path, pattern: str) -> Rows:
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.open(encoding="utf-8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "world"
    sample(SETTINGS, out)
    return out


def phrasings(fact: Fact, language: Language, *, questions: bool) -> set[str]:
    """Every way in which a fact is stated or asked, with its name and with a pronoun."""
    say = fact.ask if questions else fact.state
    return {say(Random(seed), language, pronoun=pronoun) for seed in range(40) for pronoun in (False, True)}


def exchanges(folder: Path, language: Language) -> list[tuple[str, str]]:
    """(question, answer) of all turns of conversations and preferences, rejected answers too."""
    found = []
    for row in rows(folder, f"conversations/{language}-*.jsonl") + rows(folder, f"preferences/{language}-*.jsonl"):
        messages = [message for message in row["messages"] if message["role"] != "system"]
        turns = [*messages, *row.get("chosen", [])], [*messages[-1:], *row.get("rejected", [])]
        for turn in turns:
            found += [(q["content"], a["content"]) for q, a in zip(turn[::2], turn[1::2], strict=False)]
    return found


def test_a_seed_gives_the_same_texts_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    sample(SETTINGS, tmp_path / "again")
    sample(SETTINGS.model_copy(update={"seed": 43}), tmp_path / "other")
    for path in folder.rglob("*.jsonl"):
        name = path.relative_to(folder)
        assert path.read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_both_languages_are_equal_in_number(folder: Path) -> None:
    for kind in ("documents", "conversations", "preferences"):
        texts = {
            language: [json.dumps(row) for row in rows(folder, f"{kind}/{language}-*.jsonl")] for language in LANGUAGES
        }
        once = {language: len(texts[language]) for language in LANGUAGES}
        if kind == "documents":  # the copies for cleaning are drawn by chance, some 2%
            assert all(4000 < number < 4200 for number in once.values())
        else:
            assert once["zh"] == once["en"]
    for name in ("held_out", "seen"):
        questions = rows(folder, f"questions/{name}.jsonl")
        assert len({row["id"] for row in questions}) == len(questions)
        for kind in ("relation", "sum"):
            by = [
                sum(row["kind"] == kind and row["language"] == language for row in questions) for language in LANGUAGES
            ]
            assert by[0] == by[1] > 0


def test_rows_are_valid_records_and_each_conversation_alternates(folder: Path) -> None:
    for row in rows(folder, "documents/*.jsonl"):
        assert Document.from_row(row).to_row() == row
    conversations = [Conversation.from_row(row) for row in rows(folder, "conversations/*.jsonl")]
    preferences = [Preference.from_row(row) for row in rows(folder, "preferences/*.jsonl")]
    for record in (*conversations, *preferences):
        roles = [message["role"] for message in record.messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
        assert all(message["content"].strip() for message in record.messages)
        assert [message["role"] for message in record.messages].count("system") <= 1
    assert all(record.messages[-1]["role"] == "assistant" for record in conversations)
    assert all(record.messages[-1]["role"] == "user" for record in preferences)
    assert all(record.chosen != record.rejected for record in preferences)
    assert any(len(record.messages) >= 4 for record in conversations)
    assert len({content_hash(record) for record in conversations}) > len(conversations) / 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_combinations_are_never_asked_or_answered(folder: Path, language: Language) -> None:
    asked = exchanges(folder, language)
    named = {question for question, _ in asked}
    for fact in WORLD.held_out:
        assert not named & {q for q in phrasings(fact, language, questions=True) if fact.entity.subject(language) in q}
        values = {other.value for other in WORLD.facts() if other.relation is fact.relation}
        answers = tuple(replace(fact, value=value).answer(language).rstrip("。.") for value in values)
        assert not [answer for _, answer in asked if answer.startswith(answers)], fact
    sums = {one.answer(language).rpartition(str(one.total))[0] for one in WORLD.held_out_sums}
    assert not [answer for _, answer in asked if answer.startswith(tuple(sums))]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_fact_stands_in_several_documents_in_several_words(folder: Path, language: Language) -> None:
    texts = [row["text"] for row in rows(folder, f"documents/{language}-*.jsonl")]
    written = "\n".join(texts)
    for fact in WORLD.facts():
        named = {
            s for s in phrasings(fact, language, questions=False) if fact.entity.subject(language).lower() in s.lower()
        }
        assert len(named) >= 4
        assert sum(sentence in written for sentence in named) >= 3, fact


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_sums_are_written_in_the_other_order_only(folder: Path, language: Language) -> None:
    written = "\n".join(row["text"] for row in rows(folder, f"documents/{language}-*.jsonl"))
    for one in WORLD.held_out_sums:
        for sentence in {one.state(Random(seed), language) for seed in range(30)}:
            assert f" {sentence}" not in written if language == "en" else f"。{sentence}" not in written


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_stated_share_of_answers_loops(folder: Path, language: Language) -> None:
    answers = [
        message["content"]
        for row in rows(folder, f"conversations/{language}-*.jsonl")
        for message in row["messages"]
        if message["role"] == "assistant"
    ]
    share = sum(is_loop(answer) for answer in answers) / len(answers)
    assert share == pytest.approx(SETTINGS.loops, abs=0.04)
    for row in rows(folder, f"preferences/{language}-*.jsonl"):
        assert not is_loop(row["chosen"][0]["content"])
        assert is_loop(row["rejected"][0]["content"]) == (row["meta"]["rejected"] == "loop")


@given(answer=st.text(min_size=2), repeats=st.integers(4, 20), language=st.sampled_from(LANGUAGES))
def test_a_loop_is_one_by_the_evaluators_definition(answer: str, repeats: int, language: Language) -> None:
    assert is_loop(loop(answer, language, repeats)) or len(answer) > 60


def test_no_question_gives_its_answer_away(folder: Path) -> None:
    for name in ("held_out", "seen"):
        for row in rows(folder, f"questions/{name}.jsonl"):
            assert len(row["answer"]) == len(set(row["answer"])) == 2
            if row["kind"] == "relation":
                assert not any(answer.lower() in row["question"].lower() for answer in row["answer"]), row
    for row in rows(folder, "preferences/*.jsonl"):
        history = [message["content"] for message in row["messages"]]
        assert row["chosen"][0]["content"] not in history


@settings(max_examples=25)
@given(share=st.floats(0.05, 0.9), people=st.integers(4, 48), seed=st.integers(0, 1000))
def test_a_world_holds_out_its_share_of_every_relation(share: float, people: int, seed: int) -> None:
    world = make_world(SampleSettings(seed=seed, people=people, held_out=share))
    pairs = [(fact.entity.name, fact.relation.name) for fact in world.facts()]
    assert len(pairs) == len(set(pairs)) == 5 * people + 3 * 20 + 4 * 24
    for relation in {fact.relation.name for fact in world.facts()}:
        held = sum(fact.relation.name == relation for fact in world.held_out)
        whole = sum(fact.relation.name == relation for fact in world.facts())
        assert held == max(1, round(whole * share))
    written = {(one.left, one.right) for one in world.asked_sums}
    assert all((one.right, one.left) in written and (one.left, one.right) not in written for one in world.held_out_sums)
