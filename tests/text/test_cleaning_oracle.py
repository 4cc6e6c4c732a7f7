"""Whatever the texts, the steps and the cuts: cleaning gives what one plain loop over all records gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.text.clean import clean
from danlu.text.ops.language import language_of, measure
from danlu.text.ops.table import OPERATORS
from danlu.text.problems import BadRow
from danlu.text.readers import read_rows
from danlu.text.records import Document, Record, content_hash
from danlu.text.settings import CleanSettings
from danlu.text.steps.basic import LanguageStep
from danlu.text.structure import checked

WORDS = ["春眠不觉晓", "处处闻啼鸟。", "spring", "sleep", " ", "\n", "\u200b", "\r\n", "Сегодня", "𠀀", "🙂", "1", "。"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map("".join)
LANGUAGES = st.sampled_from([["zh"], ["en", "mixed"], ["other"]])
STEP = st.one_of(
    st.just({"op": "normalise"}),
    st.builds(lambda least: {"op": "length", "min": least, "max": least + 12}, st.integers(0, 9)),
    st.builds(lambda keep: {"op": "language", "keep": keep}, LANGUAGES),
    st.just({"op": "exact_dedup"}),
    st.just({"op": "lines", "count": {"max": 2}}),
)
ANY_STEP = STEP | st.builds(lambda step, only: {**step, "languages": only}, STEP, LANGUAGES)


def one_loop(texts: list[str], steps: list[Any]) -> tuple[list[str], dict[int, str]]:
    """The texts kept, and by number the step and reason that dropped the others."""
    shares = next((step for step in steps if isinstance(step, LanguageStep)), LanguageStep())
    seen_of = [text.replace("\u200b", "").strip() for text in texts]  # of WORDS the one that does not show
    alive: dict[int, Record] = {n: Document(text) for n, text in enumerate(texts) if seen_of[n]}
    languages: dict[int, str] = {}
    dropped: dict[int, str] = {}
    first_need = next((n for n, s in enumerate(steps) if s.op == "language" or len(s.languages) < 4), None)
    ghosts: dict[int, Record] = dict(alive)  # as they would be had nothing been dropped
    for number, step in enumerate(steps):
        if number == first_need:
            for n, record in ghosts.items():
                values = {name: column[0] for name, column in measure([record], shares).items()}
                languages[n] = language_of(values, shares)
        operator, seen = OPERATORS[step.op], set()
        for n in list(ghosts):
            if len(step.languages) < 4 and languages[n] not in step.languages:
                continue
            if operator.change:
                ghosts[n] = operator.change(ghosts[n], step)
            if n in dropped:
                continue
            reason = judged(ghosts[n], step, languages.get(n), seen)
            if reason:
                dropped[n] = f"{step.op}: {reason}"
    kept = [record.text for n, record in ghosts.items() if n not in dropped and isinstance(record, Document)]
    return kept, dropped


def judged(record: Record, step: Any, language: str | None, seen: set[int]) -> str | None:
    operator = OPERATORS[step.op]
    try:
        checked(record)
    except BadRow as problem:
        return problem.reason if operator.change else None
    if step.op == "language":
        return None if language in step.keep else f"language {language}"
    if step.op == "exact_dedup":
        twin = content_hash(record) in seen
        seen.add(content_hash(record))
        return "duplicate" if twin else None
    if operator.measure is None or operator.judge is None:
        return None
    values = {name: column[0] for name, column in operator.measure([record], step).items()}
    verdict = operator.judge(values, step)
    return verdict[0] if verdict else None


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=30), st.lists(ANY_STEP, max_size=6), st.sampled_from([1, 200, 1 << 20]))
def test_it_is_one_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], steps: list[dict[str, Any]], task_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("oracle")
    for file in range(3):
        rows = [{"text": text, "n": n} for n, text in enumerate(texts) if n * 3 // len(texts) == file]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(folder), "name": "raw", "kind": "document", "max_bad_share": 1.0}
    try:
        chosen = check(CleanSettings, {"sources": [source], "steps": steps, "workers": 1, "task_bytes": task_bytes})
    except UserError:  # a step twice for the same records
        return
    kept, dropped = one_loop(texts, list(chosen.steps))
    out = folder / "out"
    if kept:
        clean(chosen, out)
    else:
        with pytest.raises(UserError, match=r"every record was dropped|hold no record"):
            clean(chosen, out)
    found = [row.fields for file in sorted(out.glob("documents/raw/*.zst")) for row in read_rows(file)]
    lost = [row.fields for file in sorted(out.glob("dropped/documents/raw/*.zst")) for row in read_rows(file)]
    assert [row["text"] for row in found] == kept
    assert {row["meta"]["n"]: f"{row['step']}: {row['reason']}" for row in lost} == dropped
