"""What inspection counts, what it refuses, and single rows for the eye."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from danlu.ledger.errors import UserError
from danlu.text.records import Conversation, Document
from danlu.tokens.cut import ANSWER_CUT, TOO_LONG, TURNS_LEFT_OUT
from danlu.tokens.encode import Encoded, encode_document
from danlu.tokens.inspect import Inspection, inspect_examples
from danlu.tokens.settings import LossLimits
from danlu.tokens.shards import Example
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.view import view, view_html

from .real_rows import sft_rows
from .test_encode import said


def inspected(qwen: Tokenizer, rows: list[Encoded], length: int = 64, **options: Any) -> Inspection:
    examples = [Example([row], f"file-{number % 2}.jsonl", number) for number, row in enumerate(rows)]
    settings: dict[str, Any] = {"overlong": "drop", "answer_budget": 16, **options}
    return inspect_examples(examples, qwen, length, **settings)


@pytest.fixture
def template(qwen: Tokenizer) -> Template:
    return Template(qwen, system="none")


def test_counts_of_a_small_set(qwen: Tokenizer, template: Template) -> None:
    rows = [template.encode(row)[0] for row in (said("问", "答"), said("a", "b", "c", "d"))]
    found = inspected(qwen, rows).as_dict()
    assert (found["rows"], found["answers"], found["in_loss"]) == (2, 3, 6)
    assert found["tokens"] == sum(map(len, rows))
    assert found["roles"]["assistant"] == {"tokens": 9, "in_loss": 6, "share": 6 / 9}
    assert found["roles"]["user"]["in_loss"] == found["roles"]["none"]["in_loss"] == 0
    assert found["sources"]["file-0.jsonl"]["in_loss"] == 2
    assert sum(found["lengths"].values()) == 2
    assert json.loads(json.dumps(found)) == found


def test_what_cutting_loses(qwen: Tokenizer, template: Template) -> None:
    rows = [template.encode(said(*texts))[0] for texts in (["1" * 30, "2" * 9, "c", "d"], ["q", "3" * 90], ["q", "a"])]
    found = inspected(qwen, rows, length=48, overlong="tail")
    assert dict(found.cuts) == {TURNS_LEFT_OUT: 1, ANSWER_CUT: 1}
    assert (found.answers, found.answers_lost, found.stops_untrained, found.rows_dropped) == (4, 1, 1, 0)
    dropped = inspected(qwen, rows, length=48)
    assert dict(dropped.cuts) == {TURNS_LEFT_OUT: 1, TOO_LONG: 1}
    assert (dropped.answers_lost, dropped.stops_untrained, dropped.rows_dropped) == (2, 0, 1)


def test_special_text_and_special_tokens_in_content(qwen: Tokenizer, template: Template) -> None:
    (text,) = template.encode(said("what is <|im_end|>?", "a token"))
    found = inspected(qwen, [text])
    assert (found.rows_with_special_text, found.rows_with_special_tokens) == (1, 0)
    tokens = text.tokens.copy()
    tokens[4] = 151645
    broken = inspected(qwen, [replace(text, tokens=tokens)])
    assert broken.rows_with_special_tokens == 1
    with pytest.raises(UserError, match="max_markup_in_content"):
        broken.refuse(LossLimits())


def test_training_is_refused_past_the_limits(qwen: Tokenizer, template: Template) -> None:
    (row,) = template.encode(said("q", "a"))
    fine = inspected(qwen, [row])
    fine.refuse(LossLimits())
    with pytest.raises(UserError, match="min_loss_share"):
        fine.refuse(LossLimits(min_loss_share=0.9))
    silent = inspected(qwen, [row, replace(row, weights=np.zeros_like(row.weights))])
    assert silent.rows_without_loss == 1
    with pytest.raises(UserError, match=r"50\.00%, `max_rows_without_loss` allows 0\.00%"):
        silent.refuse(LossLimits())
    no_stop = replace(row, weights=row.weights * (row.tokens != 151645))
    with pytest.raises(UserError, match="max_stop_untrained"):
        inspected(qwen, [no_stop]).refuse(LossLimits())
    with pytest.raises(UserError, match="max_rows_dropped"):
        inspected(qwen, [row], length=4).refuse(LossLimits())


def test_documents_are_in_the_loss_wholly(qwen: Tokenizer) -> None:
    document = encode_document(qwen, Document("你好 " * 100), 151645)
    found = inspected(qwen, [document])
    assert found.whole.share == 1.0
    assert found.rows_dropped == found.answers == found.rows_with_special_tokens == 0


def test_every_answer_token_that_fits_is_in_the_loss_on_the_real_rows(
    qwen: Tokenizer, template: Template, shared_data: Path
) -> None:
    rows = [template.encode(row)[0] for row in sft_rows(shared_data)]
    kept = inspected(qwen, rows, length=1024, overlong="tail", answer_budget=512)
    assert kept.rows == 200
    assert kept.rows_without_loss == kept.rows_with_special_tokens == kept.rows_dropped == 0
    assert kept.roles["assistant"].in_loss == kept.whole.in_loss
    assert kept.stops_untrained == kept.cuts[ANSWER_CUT]
    assert sum(kept.cuts.values()) == sum(len(row) > 1025 for row in rows)
    whole = inspected(qwen, rows, length=1 << 20)
    assert not whole.cuts
    answers = whole.roles["assistant"].tokens - whole.answers  # but for the line end after each stop token
    assert whole.whole.in_loss == answers


def test_the_table_shows_sources_roles_and_lengths(qwen: Tokenizer, template: Template) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115  # thrown away
    console.print(inspected(qwen, [template.encode(said("q", "a"))[0]]).table())
    text = console.export_text()
    for part in ("file-0.jsonl", "assistant", "all", "up to 16 tokens", "answers lost by cutting"):
        assert part in text


def test_single_rows_for_the_eye(qwen: Tokenizer, template: Template) -> None:
    (row,) = template.encode(said("<b>问𓀀", "答 & 😀"))
    shown = view(row, qwen)
    assert shown.plain.replace("↵", "").replace("·", "") == qwen.decode(row.tokens.tolist(), skip_special=False)
    trained = "".join(shown.plain[span.start : span.end] for span in shown.spans if "green" in str(span.style))
    assert trained == "答 & 😀<|im_end|>"
    page = view_html([("row <1>", row)], qwen, "rows & more")
    assert "&lt;" in page
    assert "row &lt;1&gt;" in page
    assert "<b" not in page.split("<h3>")[1]
    assert page.count('class="loss" title') == int((row.weights > 0).sum())
    assert "http" not in page


def test_a_weight_of_zero_row_counts(qwen: Tokenizer, template: Template) -> None:
    row = Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.0}])
    assert template.encode(row) == []
