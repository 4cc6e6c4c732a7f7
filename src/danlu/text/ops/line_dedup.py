"""Lines, or sentences, that stand in many records: counted by hash over all of them, and removed."""

from __future__ import annotations

from heapq import nlargest
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.kernels import codes_of
from danlu.text.ops import line_tasks
from danlu.text.ops.contents import messages_of
from danlu.text.ops.cutting import without
from danlu.text.ops.operator import Column
from danlu.text.ops.sorted_files import STRETCH
from danlu.text.ops.stages import PART, Call, Stages
from danlu.text.ops.units import units
from danlu.text.records import Record
from danlu.text.steps.duplicates import LineDedupStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering
    from danlu.text.cleaning.live import LivePart

FREQUENT = 100  # lines that findings show


def measure(records: list[Record], step: LineDedupStep) -> dict[str, Column]:
    """`lines`: hashes of the lines that count. `sizes`: their characters. `alone`: see `Units`. `characters`: those of
    all the text."""
    found = units(records, step)
    spans = [slice(*span) for span in pairwise(found.spans.bounds.tolist())]
    sizes = found.spans.lengths.astype(np.uint32)
    return {
        "lines": [found.hashes[span] for span in spans],
        "sizes": [sizes[span] for span in spans],
        "alone": [found.alone[span] for span in spans],
        "characters": codes_of(records).lengths,
    }


def judge(values: dict[str, Any], step: LineDedupStep) -> tuple[str, Any] | None:
    """A record of which too little is left, with the share that is."""
    return step.left.judge("text left", values.get("left"))


def edit(record: Record, values: dict[str, Any], step: LineDedupStep) -> Record:
    """The record without the lines that were found in too many; a message of which nothing would be left stays."""
    found = units([record], step)
    gone = np.isin(found.hashes, np.array(values["removed"], np.uint64))
    spans = list(zip(found.spans.start[gone].tolist(), found.spans.end[gone].tolist(), strict=True))
    left, at = without(record, spans), 0
    for message, after in zip(messages_of(record), messages_of(left), strict=True):
        end = at + len(message["content"])
        if message["content"].strip() and not after["content"].strip():
            spans = [span for span in spans if not at <= span[0] < end]
        at = end + 1
    return without(record, spans)


def gather(gathering: Gathering, step: LineDedupStep) -> list[Path]:
    """Findings: `removed`, hashes of lines to remove, and `left`, the share of the text that then is left. The meta of
    the first file has the most frequent removed `lines`: [line, number of records]."""
    stages, parts = Stages(gathering), gathering.parts
    findings = stages.files("findings", len(parts))
    if not all(Path(file).exists() for file in findings):
        lines = stages.files("lines", len(parts))
        calls: list[Call] = [{"part": part, "out": out} for part, out in zip(parts, lines, strict=True)]
        written = stages.run("sort lines", line_tasks.write_lines, calls, "out")
        buckets = 1 + sum(written) // STRETCH
        removed = stages.files("removed", buckets)
        calls = [
            {"lines": lines, "bucket": bucket, "buckets": buckets, "most": step.max, "first": step.keep == "first",
             "shown": FREQUENT, "out": out}
            for bucket, out in enumerate(removed)
        ]  # fmt: skip
        frequent = nlargest(FREQUENT, chain.from_iterable(stages.run("count lines", line_tasks.count, calls, "out")))
        shown = _shown(stages, parts, step, frequent)
        calls = [
            {"part": part, "removed": removed, "out": out, "meta": {} if index else {"lines": shown}}
            for index, (part, out) in enumerate(zip(parts, findings, strict=True))
        ]
        stages.run("list removed lines", line_tasks.list_removed, calls, "out")
        stages.keep(findings)
    return [Path(file) for file in findings]


def _shown(
    stages: Stages, parts: list[LivePart], step: LineDedupStep, frequent: list[list[int]]
) -> list[tuple[str, int]]:
    """The lines that were counted most, read where they stand first, with their counts."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for _, line, place in frequent:
        wanted.setdefault(place >> PART, []).append((place, line))
    calls: list[Call] = [
        {"part": part, "wanted": sorted(wanted[part.number]), "step": step.model_dump()}
        for part in parts
        if part.number in wanted
    ]
    texts = dict(chain.from_iterable(stages.run("show lines", line_tasks.show, calls)))
    return [(texts[line], times) for times, line, _ in frequent]
