"""Every reason that the code can give has Chinese words: they are collected from the code itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from danlu.report.reasons import STEPS, language_name, measure_name, reason_in, step_name
from danlu.text.ops.table import OPERATORS
from danlu.text.settings import Step
from danlu.text.steps.base import KINDS, LANGUAGES, Range
from danlu.tokens import cut, template, turns

SOURCE = Path(__file__).resolve().parents[2] / "src" / "danlu"
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def strings(node: ast.AST) -> Iterator[str]:
    """The texts that an expression can be, each {…} in them as x, or as the words that it stands for here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        shown = {
            "role": "user",
            "language": "other",
            "self._kind": "document",
            "other.kind": "document",
            "kind": "preference",
        }
        parts = [
            part.value if isinstance(part, ast.Constant) else shown.get(ast.unparse(part.value), "x")  # type: ignore[attr-defined]
            for part in node.values
        ]
        yield "".join(map(str, parts))


def counted_in_code() -> set[str]:
    """What is raised as a bad row, counted or given by a judge, wherever it stands in text/ and tokens/."""
    found: set[str] = set()
    for path in [*(SOURCE / "text").rglob("*.py"), *(SOURCE / "tokens").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.func)
                if name == "BadRow":
                    found |= {f"bad: {text}" for text in strings(node.args[0])}
                elif re.search(r"(counts|left_out)\.add$", name) or name == "mended.append":
                    found |= set(strings(node.args[0]))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("judge"):
                for value in (given.value for given in ast.walk(node) if isinstance(given, ast.Return)):
                    tuples = [part for part in ast.walk(value) if isinstance(part, ast.Tuple)] if value else []
                    found |= {text for part in tuples[:1] for text in strings(part.elts[0])}
    return found - {"rows", "records"} - {f"bad: {text}" for text in ("x",)}


def judged() -> set[str]:
    """What ranges of all steps say."""
    found = set()
    for union in get_args(get_args(Step)[0]):
        ranges = [name for name, field in union.model_fields.items() if field.annotation is Range]
        op = union.model_fields["op"].default
        names = [name.replace("_", " ") for name in ranges if name != "left"]
        names = ["bits per byte"] if union.by_language else names  # its ranges are called as the languages are
        found |= {f"{op}: {name} too {end}" for name in names for end in ("low", "high")}
    return found | {f"line_dedup: text left too {end}" for end in ("low", "high")}


REASONS = sorted(
    counted_in_code()
    | judged()
    | {f"language: language {language}" for language in LANGUAGES}
    | {
        cut.TURNS_LEFT_OUT,
        cut.IN_WINDOWS,
        turns.QUESTION_CUT,
        turns.ANSWER_CUT,
        "not encoded: an answer labelled by itself is no pair",
        "not encoded: no other answer beside this one, and KTO compares with answers to other prompts",
        cut.PROMPT_CUT,
        cut.ANSWER_CUT,
        cut.TOO_LONG,
        cut.NO_ROOM,
        template.DIFFERS,
        template.MARKUP_TEXT,
    }
)


def test_there_are_many() -> None:
    assert len(REASONS) > 60
    assert {"duplicate", "near duplicate", "bad: empty text", "lines: longest too high"} <= set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_it_has_chinese_words(reason: str) -> None:
    said = reason_in(reason, "zh")
    assert CHINESE.search(said), f"{reason!r} has no Chinese words: add them to report/reasons.py"
    rest = re.sub(
        r"[“”\w.]*x[“”\w.]*|UTF-8|JSON|CSV|NUL|HTML|Markdown|EPUB|PDF|LaTeX|WARC|ZIP|XML|IP|gitignore", "", said
    )
    assert not re.search(r"[a-z]{3,}", rest), f"{reason!r} is only half in Chinese: {said}"
    assert reason_in(reason, "en") == reason


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_every_step_has_a_chinese_name(op: str) -> None:
    assert op in STEPS and step_name(op, "zh") == f"{STEPS[op]} {op}" and step_name(op, "en") == op


def test_what_was_not_foreseen_stays_as_it_is() -> None:
    assert reason_in("not encoded: the chat template ends nowhere", "zh") == "未编码：the chat template ends nowhere"
    assert reason_in("left out: not score >= 0.5", "zh") == "省去：不满足 score >= 0.5"
    assert reason_in("exact_dedup: duplicate", "zh") == "完全去重：重复"
    assert reason_in("count too low", "zh", "words") == "词数过低"
    assert measure_name("length", "characters", "zh") == "字符数" != measure_name("repetition", "characters", "zh")
    assert [language_name(name, "en") for name in ("zh", "")] == ["zh", "not measured"]
    assert len({language_name(name, "zh") for name in (*LANGUAGES, "")}) == 5 and len(KINDS) == 3


def test_a_step_with_a_name_of_its_own_has_the_words_of_its_sort() -> None:
    assert step_name("classifier:spam", "en") == "classifier:spam"
    assert step_name("classifier:垃圾", "zh") == f"{STEPS['classifier']}:垃圾 classifier"
    assert measure_name("keywords:ads", "count", "zh") == measure_name("keywords", "count", "zh") == "命中数"
    assert reason_in("keywords:ads: count too high", "zh") == f"{STEPS['keywords']}：ads：命中数过高"
