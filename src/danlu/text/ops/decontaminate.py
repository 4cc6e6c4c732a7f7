"""Records in which test items stand: found by n-grams, as for GPT-3 (Brown et al. 2020, appendix C), dropped or cut.

An n-gram is `ngram` words in a row; in Chinese, where a character is a word, as many characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.kernels import Codes
from danlu.text.ops.cutting import without
from danlu.text.ops.evaluation_index import Index, IndexFiles, Matches, merged, write_index
from danlu.text.ops.stages import Call, Stages, places_of, write_findings
from danlu.text.ops.units import letters_before
from danlu.text.records import Record
from danlu.text.steps.duplicates import DecontaminateStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering
    from danlu.text.cleaning.live import LivePart

_BATCH = 1 << 19  # characters
_SHOWN = 300  # characters of a passage


def judge(values: dict[str, Any], step: DecontaminateStep) -> tuple[str, Any] | None:
    """A record with too much of a test item: which item, the passage, and how much it is."""
    if step.action == "cut" or values["share"] is None or not step.share.judge("share", values["share"]):
        return None
    return "test item", {name: values[name] for name in ("test", "item", "passage", "matches", "share")}


def edit(record: Record, values: dict[str, Any], step: DecontaminateStep) -> Record:
    """With `cut`, the record without the passages of items of which it has too much; a line end stands for each."""
    return without(record, list(zip(values["spans"][::2], values["spans"][1::2], strict=True)), "\n")


def gather(gathering: Gathering, step: DecontaminateStep) -> list[Path]:
    """Findings for each record with a match: the `test` and `item` (file and line) of which the greatest `share` of
    n-grams stands in it, how many `matches` that is, the first `passage`, all `tests` that match, and the `spans` that
    a cut takes out. The meta of the first file counts the tests' items and those too short to check."""
    stages, parts = Stages(gathering), gathering.parts
    findings = stages.files("findings", len(parts))
    if not all(Path(file).exists() for file in findings):
        files = {name: stages.files(name, 1)[0] for name in ("grams", "owners", "filter", "short", "names")}
        settings = step.model_dump()
        call: Call = {"step": settings, "unsorted": stages.files("unsorted", 1)[0], **files}
        [index] = stages.run("index tests", write_index, [call], "unsorted", *files)
        counts, common = index["counts"], {"files": files, "lengths": index["lengths"], "step": settings}
        calls: list[Call] = [
            {**common, "part": part, "out": out, "meta": {} if number else {"tests": counts}}
            for number, (part, out) in enumerate(zip(parts, findings, strict=True))
        ]
        stages.run("look for tests", scan, calls, "out")
        stages.keep(findings)
    return [Path(file) for file in findings]


def scan(
    part: LivePart, files: dict[str, str], lengths: list[int], step: dict[str, Any], out: str, meta: dict[str, Any]
) -> int:
    """Writes the findings of a part. Returns how many records match."""
    import pyarrow as pa

    settings = DecontaminateStep(**step)
    index = Index(IndexFiles(**files), settings.ngram, lengths)
    found = [match for rows, texts in _batches(part) for match in _matching(index, settings, rows, texts)]
    best = index.names.take(pa.array([match.item for match in found], pa.int64()))
    tests = index.names["test"]
    matches = np.array([match.matches for match in found], np.int64)
    columns = {
        "test": best["test"],
        "item": best["where"],
        "matches": matches,
        "share": matches / best["ngrams"].to_numpy(),
        "passage": pa.array([match.passage for match in found], pa.string()),
        "tests": pa.array(
            [sorted(set(tests.take(pa.array(match.items)).to_pylist())) for match in found],
            pa.list_(pa.string()),
        ),
        "spans": pa.array([match.cut for match in found], pa.list_(pa.int64())),
    }
    places = places_of(part.number, np.array([match.row for match in found], np.int64))
    write_findings(out, part.number, places, columns, meta)
    return len(found)


@dataclass(frozen=True, slots=True)
class _Match:
    """A record, the test item of which the greatest share stands in it, all items that do, and what a cut takes out."""

    row: int
    item: int
    matches: int
    passage: str
    items: list[int]
    cut: list[int]


def _matching(index: Index, step: DecontaminateStep, rows: list[int], texts: list[str]) -> Iterator[_Match]:
    codes = Codes(texts)
    found = index.find(codes)
    if not len(found.words):
        return
    letters = letters_before(codes)
    records = np.searchsorted(codes.words.bounds, found.words, "right") - 1
    for record in np.unique(records).tolist():
        mine = found.only(records == record)
        by_item = {item: mine.of(item) for item in np.unique(mine.items).tolist()}
        shares = {
            item: len(own.words) / index.sizes[item]
            for item, own in by_item.items()
            if own.lengths[0] < step.ngram or _covered(codes, letters, own) >= step.evidence
        }
        if not shares:
            continue
        best = max(shares, key=lambda item: (shares[item], -item))
        at = int(codes.bounds[record])
        start, end = (by_item[best].spans(codes)[0] - at).tolist()
        beyond = [item for item in shares if step.action == "cut" and step.share.judge("share", shares[item])]
        cut = _cuts(codes, mine.only(np.isin(mine.items, beyond)), record, step.context) if beyond else []
        passage = texts[record][start : min(end, start + _SHOWN)]
        yield _Match(rows[record], best, len(by_item[best].words), passage, list(shares), cut)


def _covered(codes: Codes, letters: np.ndarray, matches: Matches) -> int:
    """How many bytes the letters and digits under the matches have."""
    spans = matches.spans(codes)
    return int((letters[spans[:, 1]] - letters[spans[:, 0]]).sum())


def _cuts(codes: Codes, matches: Matches, record: int, context: int) -> list[int]:
    """Start, end, start, end, ... of what holds the matches of a record, with their context, to whole words."""
    words, begin, stop = codes.words, int(codes.bounds[record]), int(codes.bounds[record + 1]) - 1
    starts, ends = matches.spans(codes).T
    starts, ends = np.maximum(starts - context, begin), np.minimum(ends + context, stop)
    starts = np.minimum(starts, words.start[np.searchsorted(words.end, starts, "right")])
    ends = np.maximum(ends, words.end[np.searchsorted(words.start, ends) - 1])
    return (merged(starts, ends) - begin).reshape(-1).tolist()


def _batches(part: LivePart) -> Iterator[tuple[list[int], list[str]]]:
    rows = [rows for rows, _ in part.columns([])]
    batch: tuple[list[int], list[str]] = ([], [])
    size = 0
    for row, text in part.texts(np.concatenate(rows)) if rows else ():
        batch[0].append(row)
        batch[1].append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = ([], []), 0
    if batch[0]:
        yield batch
