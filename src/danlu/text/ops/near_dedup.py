"""Records that say nearly the same, found by MinHash and proven by the Jaccard similarity of their n-grams.

Signatures (Broder 1997, by rensa) are cut into bands of some values (Leskovec et al., Mining of Massive Datasets,
3.4): two records of similarity s agree in a band of r values with the probability s^r, and in one of b bands with
1 - (1 - s^r)^b. Records that do are compared, n-gram by n-gram, in the order of the corpus: the first stays, and
another goes when one that stays reaches the threshold with it. So whatever goes has a near-duplicate that is kept, a
chain of ever less similar records does not go as a whole, and what bands find by chance costs time and no record.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.kernels import codes_of, mixed, sums
from danlu.text.ops import near_tasks
from danlu.text.ops.operator import Column
from danlu.text.ops.sorted_files import STRETCH
from danlu.text.ops.stages import Call, Stages
from danlu.text.records import Record
from danlu.text.steps.duplicates import NearDedupStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering
    from danlu.text.cleaning.live import LivePart

_SEED = 42
_FOLD = np.uint32(0x9E3779B1)


def measure(records: list[Record], step: NearDedupStep) -> dict[str, Column]:
    """`signature`: 16 bits of each MinHash value. `same`: a hash of all n-grams, equal only for equal n-grams.

    None for records without an n-gram.
    """
    from rensa import RMinHash

    found = near_tasks.shingles(codes_of(records), step.ngram)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        found.hashes, found.bounds.astype(np.uint64), step.permutations, _SEED
    )
    values = np.array(matrix.to_rows(), np.uint32).reshape(len(records), step.permutations)
    values = ((values * _FOLD) >> np.uint32(16)).astype("<u2")
    same = mixed(sums(found.hashes.view(np.int64), found.bounds).view(np.uint64))
    there = np.diff(found.bounds) > 0
    return {
        "same": [value if full else None for value, full in zip(same, there, strict=True)],
        "signature": [row.tobytes() if full else None for row, full in zip(values, there, strict=True)],
    }


def judge(values: dict[str, Any], step: NearDedupStep) -> tuple[str, Any] | None:
    """A record that shares most n-grams with a kept one: that one's origin and source, and their similarity."""
    if values.get("twin") is None:
        return None
    named = {"twin": values["twin"], "source": values["source"]}
    return "near duplicate", {**named, "jaccard": round(values["jaccard"], 4)}


def banding(step: NearDedupStep) -> tuple[int, int]:
    """Bands and values in each: as many values as still find a pair at the threshold with the wanted probability."""
    for rows in range(step.permutations, 1, -1):
        bands = step.permutations // rows
        if 1 - (1 - step.threshold**rows) ** bands >= step.recall:
            return bands, rows
    return step.permutations, 1


def gather(gathering: Gathering, step: NearDedupStep) -> list[Path]:
    """Findings for each record that is to go: `twin` and `source`, where the kept one comes from, and `jaccard`.

    The meta of the first file has `not compared`: how many records share bands with more kept ones than they were
    compared with.
    """
    stages, parts = Stages(gathering), gathering.parts
    findings = stages.files("findings", len(parts))
    if not all(Path(file).exists() for file in findings):
        same, near, links = _candidates(stages, parts, banding(step))
        decided, not_compared = _decisions(stages, parts, step, near, links)
        calls: list[Call] = [
            {"parts": parts, "index": index, "same": same, "decided": decided, "out": out,
             "meta": {} if index else {"not compared": not_compared}}
            for index, out in enumerate(findings)
        ]  # fmt: skip
        stages.run("name twins", near_tasks.name_twins, calls, "out")
        stages.keep(findings)
    return [Path(file) for file in findings]


def _candidates(stages: Stages, parts: list[LivePart], bands: tuple[int, int]) -> tuple[list[str], ...]:
    keys = stages.files("keys", len(parts))
    calls: list[Call] = [
        {"part": part, "bands": bands[0], "rows": bands[1], "out": out} for part, out in zip(parts, keys, strict=True)
    ]
    written = stages.run("sort signatures", near_tasks.write_keys, calls, "out")
    buckets = 1 + sum(written) // STRETCH
    found = [stages.files(name, buckets) for name in ("same", "near", "links")]
    calls = [
        {"keys": keys, "bucket": bucket, "buckets": buckets, "same": same, "near": near, "links": links}
        for bucket, (same, near, links) in enumerate(zip(*found, strict=True))
    ]
    stages.run("find candidates", near_tasks.find_buckets, calls, "same", "near", "links")
    return tuple(found)


def _decisions(
    stages: Stages, parts: list[LivePart], step: NearDedupStep, near: list[str], links: list[str]
) -> tuple[list[str], int]:
    [groups], [candidates] = stages.files("groups", 1), stages.files("candidates", 1)
    call: Call = {"near": near, "links": links, "groups": groups, "candidates": candidates}
    [cuts] = stages.run("group candidates", near_tasks.join, [call], "groups", "candidates")
    sets, places = stages.files("sets", len(parts)), stages.files("places", len(parts))
    calls: list[Call] = [
        {"part": part, "candidates": candidates, "ngram": step.ngram, "sets": own, "places": where}
        for part, own, where in zip(parts, sets, places, strict=True)
    ]
    stages.run("read candidates", near_tasks.write_sets, calls, "sets", "places")
    stored = {part.number: [own, where] for part, own, where in zip(parts, sets, places, strict=True)}
    decided = stages.files("decided", max(0, len(cuts) - 1))
    calls = [
        {"groups": groups, "low": low, "high": high, "stored": stored, "threshold": step.threshold, "out": out}
        for (low, high), out in zip(pairwise(cuts), decided, strict=True)
    ]
    return decided, sum(stages.run("compare candidates", near_tasks.decide, calls, "out"))
