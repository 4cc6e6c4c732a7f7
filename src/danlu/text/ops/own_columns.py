"""Findings that are a record's own columns: for an edit that follows from a score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.ops.stages import Stages, places_of, write_findings

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering
    from danlu.text.cleaning.live import LivePart


def gather_own(gathering: Gathering, names: list[str], above: float) -> list[Path]:
    """The columns `names` of the records whose first one is greater than `above`."""
    stages = Stages(gathering)
    found = stages.files("own", len(gathering.parts))
    calls: list[dict[str, Any]] = [
        {"part": part, "names": names, "above": above, "out": out}
        for part, out in zip(gathering.parts, found, strict=True)
    ]
    stages.run("list own values", list_own, calls, "out")
    return [Path(file) for file in found]


def list_own(part: LivePart, names: list[str], above: float, out: str) -> int:
    """Writes the findings of a part. Returns how many records it found."""
    import pyarrow as pa

    places: list[np.ndarray] = [np.zeros(0, np.uint64)]
    values: dict[str, list[Any]] = {name: [] for name in names}
    for rows, columns in part.columns(names):
        first = columns[names[0]].to_numpy(zero_copy_only=False)
        at = np.flatnonzero(first.astype(np.float64) > above)
        places.append(places_of(part.number, rows[at]))
        for name in names:
            values[name].append(columns[name].take(pa.array(at)))
    found = np.concatenate(places)
    arrays = {name: pa.concat_arrays(taken) if taken else pa.array([], pa.float64()) for name, taken in values.items()}
    write_findings(out, part.number, found, arrays)
    return len(found)
