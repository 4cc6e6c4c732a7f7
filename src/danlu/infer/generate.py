"""Answers to a file of prompts, one JSON line each, in the order of the prompts."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.infer.engine import Event, Finish
from danlu.infer.model import Model
from danlu.infer.settings import SamplingSettings
from danlu.ledger.counts import Counts
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import explained, make_folder
from danlu.ledger.progress import progress
from danlu.ledger.signals import Stop, graceful_stop
from danlu.text.problems import BadRow
from danlu.text.readers import read_rows

_Asked = tuple[list[int], dict[str, Any]]
AHEAD = 4  # prompts in the engine for each row of its batch, so that rows never wait for the file
FIRST = b'{"line": '  # how a row of answers begins


def generate_file(model: Model, prompts: Path, out: Path, sampling: SamplingSettings) -> Counts:
    """Answers each row of `prompts` into the JSON-lines file `out` and says on standard error what was skipped.

    A row has `messages` (asked through the chat template), or `prompt` or `text` (continued as it is); in a .txt file
    each line is a row. Out come `line`, the row's prompt, `answer`, `finish` ("stop" or "length"), `model`,
    `quantize` and `sampling`. An unfinished `out` is gone on with after its last whole line. Gives what could not be
    asked, by reason. Raises UserError when `out` holds answers to something else, Stopped after Ctrl-C.
    """
    if prompts.is_dir():
        raise UserError("a folder, not a file of prompts", where=str(prompts), do="name one file in it")
    if out.is_dir():
        raise UserError("a folder, not a file for answers", where=str(out), do="name a .jsonl file in it")
    counts, answered = Counts(), 0
    last = _last_row(out)
    common = {
        "model": model.name,
        "quantize": model.quantised,
        "sampling": sampling.model_dump(exclude_defaults=True),
    }
    asked = _asked(model, prompts, out, last, common, counts)
    make_folder(out.parent)
    with graceful_stop() as stop:
        with (
            explained(out),
            out.open("a", encoding="utf-8", newline="\n") as handle,
            progress("answers", unit="rows") as bar,
        ):
            for row in _answers(model, asked, sampling, stop):
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
                handle.flush()
                answered += 1
                bar.advance()
        _say(out, answered, counts)
        if stop.requested:
            raise Stopped(f"{out} holds the answers up to here; the same command goes on with the rest")
    return counts


class _Answer:
    """A row whose prompt is in the engine."""

    def __init__(self, model: Model, ids: list[int], row: dict[str, Any], sampling: SamplingSettings) -> None:
        self.row = row
        self.pieces: list[str] = []
        self.finish: Finish | None = None
        self.request = model.submit(ids, sampling, self._take)

    def _take(self, piece: str, event: Event, finish: Finish | None) -> None:
        self.pieces.append(piece)
        self.finish = finish

    def whole(self) -> dict[str, Any]:
        return self.row | {"answer": "".join(self.pieces), "finish": self.finish}


def _answers(model: Model, asked: Iterator[_Asked], sampling: SamplingSettings, stop: Stop) -> Iterator[dict[str, Any]]:
    """Whole rows in the order of their prompts, with the engine kept full."""
    flying: deque[_Answer] = deque()
    try:
        while not stop.requested:
            room = AHEAD * model.engine.max_batch - len(flying)
            flying.extend(_Answer(model, ids, row, sampling) for ids, row in islice(asked, room))
            if not flying:
                return
            model.engine.step()
            while flying and flying[0].finish is not None:
                yield flying.popleft().whole()
    finally:
        for answer in flying:
            model.engine.cancel(answer.request)


def _asked(
    model: Model, prompts: Path, out: Path, last: dict[str, Any] | None, common: dict[str, Any], counts: Counts
) -> Iterator[_Asked]:
    """The token ids of each row that is still to be answered, and what is known of its answer's row."""

    def skip(bad: BadRow, where: str) -> None:
        counts.add(bad.reason, where)

    for row in read_rows(prompts, skip, document="line"):
        if last is not None and row.line < last["line"]:
            continue
        try:
            ids, shown = _prompt(model, row.fields)
        except BadRow as bad:
            skip(bad, row.where)
            continue
        known = {"line": row.line, **shown, **common}
        if last is None or row.line > last["line"]:
            yield ids, known
        elif any(last.get(key) != value for key, value in known.items()):
            raise UserError(
                "the answers here were made from other prompts, by another model or with other settings",
                where=str(out),
                do="name another output file, or remove this one",
            )


def _prompt(model: Model, fields: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """Token ids of a row, and the field that they come from."""
    messages = fields.get("messages")
    if isinstance(messages, list):
        if not messages:
            raise BadRow("empty prompt")
        shown: dict[str, Any] = {"messages": messages}
        try:
            ids = model.chat_prompt(messages)
        except UserError as error:
            if model.template is None:
                raise
            raise BadRow("refused by the chat template", error.what) from None
    else:
        name = next((name for name in ("prompt", "text") if isinstance(fields.get(name), str)), None)
        if name is None:
            raise BadRow("neither messages nor prompt", ", ".join(fields))
        shown, ids = {"prompt": fields[name]}, model.raw_prompt(fields[name])
    if not ids:
        raise BadRow("empty prompt")
    if len(ids) >= model.engine.window:
        raise BadRow("prompt longer than the window", f"{len(ids)} tokens, the window has {model.engine.window}")
    return ids, shown


def _last_row(out: Path) -> dict[str, Any] | None:
    """The last whole row of an unfinished file, from which what comes after it is cut off."""
    if not out.exists():
        return None
    end, last = 0, b""
    with out.open("rb+") as handle:
        start = handle.read(len(FIRST))
        handle.seek(0)
        for line in handle:
            if line.endswith(b"\n"):
                end, last = end + len(line), line
        try:
            row = json.loads(last) if last else None
            if not FIRST.startswith(start) or (row is not None and not isinstance(row["line"], int)):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise UserError("not a file of answers", where=str(out), do="name another output file") from None
        handle.truncate(end)
    return row


def _say(out: Path, answered: int, counts: Counts) -> None:
    print(f"{answered} new answers in {out}", file=sys.stderr)
    for reason, found in counts.as_dict().items():
        print(f"{found['count']} rows skipped, {reason}: {', '.join(found['examples'])}", file=sys.stderr)
