"""Rows of questions, from .jsonl files, plain or compressed, with errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.ledger.files import sha256_file
from danlu.text.readers import read_rows

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_WORD = re.compile(r"[A-Za-zÀ-ɏ]+")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl or .jsonl.zst file. Raises UserError where it is missing."""
    for row in read_rows(_present(path)):
        yield row.fields


def file_hash(path: Path) -> str:
    """The SHA-256 of a file of questions. Raises UserError where it is missing."""
    return sha256_file(_present(path))


def _present(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            "no such file", where=str(path), do="set evaluate.questions, evaluate.references or evaluate.choice_files"
        )
    return path


def read_questions(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """Rows with `question`, `answers` (list), `kind` and `language`; the first `limit` of each kind and language.

    `answer` may be one text or a list of accepted ones; a missing kind is "question", a missing language is told from
    the question's script. Raises UserError for a row without question or answer, or for a file without rows.
    """
    questions: list[dict[str, Any]] = []
    taken: dict[tuple[str, str], int] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        answer = row.get("answer")
        answers = [answer] if isinstance(answer, str) else answer
        if not isinstance(row.get("question"), str) or not answers or not all(isinstance(a, str) for a in answers):
            raise UserError(
                f"a question needs `question` and `answer`, and has {', '.join(row) or 'nothing'}",
                where=f"{path}:{number}",
                do="give `answer` as a text or as a list of accepted texts",
            )
        kind, language = str(row.get("kind", "question")), str(row.get("language") or language_of(row["question"]))
        seen = taken.get((kind, language), 0)
        if limit is None or seen < limit:
            taken[kind, language] = seen + 1
            questions.append(
                {"question": row["question"], "answers": list(answers), "kind": kind, "language": language}
            )
    if not questions:
        raise UserError("no question in it", where=str(path))
    return questions


def language_of(text: str) -> str:
    """zh where Chinese characters are at least half of the Chinese characters and Latin words together, else en."""
    han, words = len(_HAN.findall(text)), len(_WORD.findall(text))
    return "zh" if han and han >= words else "en"
