"""`danlu explain`: the life of a record, from its line in the source to the training steps that saw it."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.files import read_json
from danlu.ledger.metrics import read_metrics
from danlu.recipe.job import FILE
from danlu.recipe.settings import TRAINING
from danlu.report.data.passages import cover_of, said
from danlu.text.cleaning.life import Life, find_records, life_of
from danlu.text.cleaning.trail import TRAIL, Trail, read_trail

if TYPE_CHECKING:
    from danlu.tokens.order import Place
    from danlu.tokens.stream import Stream

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Sight:
    """A training step that saw a record; `step` is None where training has not come so far."""

    epoch: int
    position: int
    step: int | None
    cut: str | None
    """What cutting to the length did to it, or why it was left out."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a training stage has of a record: where its tokens lie, and who saw them."""

    stage: str
    split: str
    tokens: int
    places: list[str]
    """ "shard, example number" of each example that holds it."""
    sights: list[Sight]


def explain(run: Path, wanted: str, as_json: bool = False) -> None:
    """Prints the life of the records that `wanted` means.

    Raises UserError for a folder that is neither a run nor a cleaned folder, and for an id that is not known.
    """
    trail = read_trail(_cleaned(run))
    found = find_records(trail, wanted)
    lives = [life_of(trail, part, row) for part, row in found]
    trained = [trainings(run, life) if trail.folder != run and life.kept else [] for life in lives]
    if as_json:
        told = [_plain(life, of, trail) for life, of in zip(lives, trained, strict=True)]
        print(json.dumps(told, ensure_ascii=False, indent=1, default=str))
        return
    from danlu.recipe.explain_print import print_life

    for life, of in zip(lives, trained, strict=True):
        print_life(life, of, cover_of(trail.settings))


def _cleaned(run: Path) -> Path:
    for folder in (run, run / "clean"):
        if (folder / TRAIL).is_file():
            return folder
    what = "this run has no finished clean stage" if run.is_dir() else "no such folder"
    raise UserError(what, where=str(run), do="name the `out` folder of a recipe that cleans, or its `clean` folder")


def trainings(run: Path, life: Life) -> list[Training]:
    """What each training stage of a run that has begun has of a kept record."""
    folders = [run / name for name in TRAINING if (run / name / FILE).is_file()]
    return [found for folder in folders for found in _training(folder, life)]


def _training(folder: Path, life: Life) -> list[Training]:
    from danlu.recipe.job import TrainingJob, held_out_streams, training_stream

    job = check(TrainingJob, read_json(folder / FILE))
    job = job.model_copy(update={"packed": folder.parent / "pack" / job.stage})  # the run may have moved since
    stream = training_stream(job)
    places = set(stream.places_of(life.hash))
    if places:
        return [_seen(job.stage, "train", stream, places, life, _sights(stream, places, folder / METRICS))]
    found = [(one, set(one.places_of(life.hash))) for one in held_out_streams(job).values()]
    return [_seen(job.stage, "held_out", one, places, life, []) for one, places in found if places]


def _sights(stream: Stream, places: set[Place], metrics: Path) -> list[Sight]:
    rows = read_metrics(metrics) if metrics.is_file() else []
    steps = {int(row["consumed"]): int(row["step"]) for row in rows if row.get("consumed") is not None}
    ends, found = sorted(steps), []
    for position, _ in stream.find(places, stream.total):
        at = bisect_right(ends, position)
        step = steps[ends[at]] if at < len(ends) else None
        found.append(Sight(position // stream.epoch, position, step, next(stream.examples(position, 1)).reason))
    return found


def _seen(stage: str, split: str, stream: Stream, places: set[Place], life: Life, sights: list[Sight]) -> Training:
    tokens, named = 0, []
    for source, shard in sorted({(place.source, place.shard) for place in places}):
        token_set = stream.sets[source]
        columns = token_set.shard(shard)
        documents = np.flatnonzero(columns.hash == np.uint64(life.hash))
        tokens += int(np.diff(columns.document_offsets)[documents].sum())
        numbers = sorted(place.index for place in places if (place.source, place.shard) == (source, shard))
        named += [f"{token_set.name}/{token_set.shards[shard].file}, {stream.unit} {number}" for number in numbers]
    return Training(stage, split, tokens, named, sights)


def _plain(life: Life, trained: list[Training], trail: Trail) -> dict[str, Any]:
    """A life as JSON; personal data is covered where the corpus was searched for it."""
    cover = cover_of(trail.settings)
    return {
        "id": life.origin,
        "kind": life.kind,
        "source": life.source,
        "file": life.file,
        "language": life.language,
        "hash": f"{life.hash:016x}",
        "kept": life.kept,
        "text": cover(said(life.last)),
        "steps": [
            {
                "step": event.step,
                "values": event.values,
                "bounds": event.bounds,
                **(
                    {"before": cover(said(event.before)), "after": cover(said(event.after))}
                    if event.before is not None and event.after is not None
                    else {}
                ),
                **({"dropped": event.reason, "value": event.value} if event.reason is not None else {}),
            }
            for event in life.events
        ],
        "twin": life.twin and {"id": life.twin[0], "text": cover(said(life.twin[1]))},
        "training": [asdict(one) for one in trained],
    }
