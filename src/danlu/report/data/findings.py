"""What steps that look across records found: near-duplicates, frequent lines, test items; and personal data."""

from __future__ import annotations

from collections import Counter
from typing import Any

from markupsafe import Markup

from danlu.report.data.panels import ROWS, Panel
from danlu.report.data.passages import COVER, Cover, beginning, changes, covered, said
from danlu.report.data.samples import Example
from danlu.report.data.words import tell
from danlu.report.details import value_name
from danlu.report.reasons import measure_name
from danlu.report.scores import Table
from danlu.report.words import Language, comma, number, percent
from danlu.text.cleaning.columns import read_meta
from danlu.text.cleaning.trail import PartTrail, Trail
from danlu.text.steps.privacy import PrivacyStep

MOST_LINES = 15
MOST_ITEMS = 20
MOST_PAIRS = 12
MOST_HITS = 3
PASSAGE = 180  # characters


def tables(trail: Trail, panels: list[Panel], cover: Cover, language: Language) -> dict[str, list[Table]]:
    """The tables of the sections frequent, contamination and personal; none where nothing was found."""
    return {
        "frequent": _frequent(trail, cover, language),
        "contamination": _contamination(trail, cover, language),
        "personal": _personal(trail, panels, language),
    }


def pairs(trail: Trail, dropped: list[Example], cover: Cover) -> list[dict[str, Any]]:
    """Dropped near-duplicates beside the records that were kept, as pieces that only one of the two has."""
    found = [example for example in dropped if example.step.partition(":")[0] == "near_dedup"][:MOST_PAIRS]
    made = []
    for example in found:
        kept = twin_of(trail, example.trail, example.turn, example.value)
        if kept is not None and example.record is not None:
            origin, text = kept
            edits = changes(cover(said(example.record)), cover(text))
            made.append(
                {"example": example, "twin": origin, "jaccard": percent(example.value["jaccard"]), "edits": edits}
            )
    return made


def twin_of(trail: Trail, part: PartTrail, place: int, value: dict[str, Any]) -> tuple[str, str] | None:
    """Where the kept record that a near-duplicate's value names comes from, and what it says at the turn that drops."""
    origin = value["twin"]
    found = trail.rows_of(part.part.kind, {origin}).get(origin, [])
    if not found:
        return None
    kept, row = next((place for place in found if place[0].source == value["source"]), found[0])
    record = kept.before(place, kept.originals_of([row]))[row]
    return origin, said(record)


def short_value(value: Any, cover: Cover, language: Language = "en") -> str:
    """The value for which a record was dropped, in few words: a number, or its parts."""
    if isinstance(value, dict):
        parts = (f"{value_name(name, language)} {short_value(inner, cover, language)}" for name, inner in value.items())
        return comma(language).join(parts)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else beginning(cover(str(value)), PASSAGE)


def _turns(trail: Trail, op: str) -> dict[tuple[str, int], tuple[str, ...]]:
    """By kind and place, the files of what a step found."""
    return {
        (part.part.kind, place): turn.findings
        for part in trail.parts
        for place, turn in enumerate(part.turns)
        if turn.step.op == op and not turn.edits and turn.findings
    }


def _frequent(trail: Trail, cover: Cover, language: Language) -> list[Table]:
    made = []
    for files in _turns(trail, "line_dedup").values():
        lines = read_meta(files[0]).get("lines", [])
        rows = [[beginning(cover(line), PASSAGE), number(times)] for line, times in lines[:MOST_LINES]]
        head = [tell(key, language) for key in ("line", "in_records")]
        made += [Table(tell("frequent", language), head, rows)] if rows else []
    return made


def _contamination(trail: Trail, cover: Cover, language: Language) -> list[Table]:
    """Test sets, and the items that stand in most records."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    sets, items, best = Counter[str](), Counter[tuple[str, str]](), dict[tuple[str, str], tuple[float, str]]()
    beyond = Counter[str]()
    bounds = [step.share for step in trail.settings.steps if step.op == "decontaminate"]
    for file in (file for files in _turns(trail, "decontaminate").values() for file in files):
        for batch in parquet.ParquetFile(file).iter_batches(columns=["test", "item", "share", "passage"]):
            sets.update({entry["values"]: entry["counts"] for entry in pc.value_counts(batch["test"]).to_pylist()})
            for row in batch.to_pylist():
                key = (row["test"], row["item"])
                items[key] += 1
                beyond[row["test"]] += any(bound.judge("share", row["share"]) is not None for bound in bounds)
                if row["share"] > best.get(key, (-1.0, ""))[0]:
                    best[key] = (row["share"], beginning(row["passage"], PASSAGE))
    if not sets:
        return []
    head = [tell(key, language) for key in ("set", "matches", "dropped_records")]
    by_set = Table(
        tell("set", language), head, [[name, number(n), number(beyond[name])] for name, n in sets.most_common()]
    )
    order = sorted(items, key=lambda key: (-best[key][0], -items[key], key))[:MOST_ITEMS]
    rows = [[*key, cover(best[key][1]), percent(best[key][0]), number(items[key])] for key in order]
    head = [tell(key, language) for key in ("set", "item", "passage", "share", "matches")]
    return [by_set, Table(tell("item", language), head, rows, 3)]


def _personal(trail: Trail, panels: list[Panel], language: Language) -> list[Table]:
    """By kind of data how many records had some; with a few hits, covered."""
    steps = [step for step in trail.settings.steps if isinstance(step, PrivacyStep)]
    shown = _hits(trail, steps) if steps else {}
    rows: list[list[Any]] = []
    for panel in panels:
        if panel.step.op != "privacy":
            continue
        groups = [group for group in panel.groups if group.sort == "source"]
        with_some = [place for place, value in enumerate(panel.highest) if value > 0]
        records = sum(group.cells[place][ROWS] for group in groups for place in with_some)
        times = sum(group.cells[place][ROWS] * panel.lowest[place] for group in groups for place in with_some)
        if records:
            hits = Markup("<br>").join(shown.get(panel.column, []))
            rows.append([measure_name(panel.step.op, panel.column, language), Markup("<small>{}</small>").format(hits),
                         number(records), number(times)])  # fmt: skip
    head = [tell(key, language) for key in ("kind", "passage", "records_with", "replaced")]
    return [Table(tell("personal", language), head, rows, 2, tell("how_personal", language))] if rows else []


def _hits(trail: Trail, steps: list[PrivacyStep]) -> dict[str, list[str]]:
    """A few passages by kind of data."""
    from danlu.report.data.samples import rows_with

    shown: dict[str, list[str]] = {}
    for record, datum in rows_with(trail, "privacy", MOST_HITS):
        text, places = covered(said(record), steps)
        for _, start, end in [place for place in places if place[0] == datum][:1]:
            left, right = max(0, start - 30), min(len(text), end + 30)
            passage = " ".join(text[left:right].split())
            if passage not in shown.setdefault(datum, []) and COVER in passage:
                shown[datum].append(passage)
    return shown
