"""The report as one self-contained HTML page: no file beside it, no network."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from danlu.report import flow
from danlu.report.charts import NARROW, WIDE, Chart, Line, averaged, swatch
from danlu.report.curves import Curve, Points
from danlu.report.data.report import PAGE
from danlu.report.details import place_in
from danlu.report.inspection import inspections
from danlu.report.reasons import reason_in
from danlu.report.runs import Run, Stage
from danlu.report.scores import Table, Tile, answers, tables, tiles
from danlu.report.speed import speed_table
from danlu.report.words import Language, clock, comma, number, say, sentence

SINGLE = ("learning_rate", "grad_norm", "tokens_per_second", "rewards_accuracy", "rewards_margin")
"""Columns that get a chart of their own in a stage's card; loss and rewards are drawn together with their peers."""
PALETTE = 8
BEHIND = 5
"""The colour of what stands behind another line."""
MANY_POINTS = 60
"""A loss of so many points is drawn with its average."""
MOST_DETAIL = 6
"""With more curves than this, only the overlays are drawn."""


def render(runs: list[Run], language: Language, out: Path) -> str:
    """The page's HTML for one or more runs, in English or Chinese; links to other pages begin at the folder `out`."""
    environment = Environment(loader=PackageLoader("danlu.report", "page"), autoescape=True, trim_blocks=True)
    style, script = (Markup(_asset(environment, name)) for name in ("style.css", "chart.js"))
    view = _View(runs, language, out).content()
    page = environment.get_template("page.html.jinja")
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return page.render(style=style, script=script, language=language, made=made, **view)


def _asset(environment: Environment, name: str) -> str:
    loader = environment.loader
    assert loader is not None
    return loader.get_source(environment, name)[0]


class _View:
    """The page's content as plain values, in one language."""

    def __init__(self, runs: list[Run], language: Language, out: Path) -> None:
        self.runs, self.language, self.out = runs, language, out
        self.comma = comma(language)
        self.trained = [(run, stage) for run in runs for stage in run.trained()]

    def say(self, key: str) -> str:
        return say(key, self.language)

    def content(self) -> dict[str, Any]:
        views = [self.run(run) for run in self.runs]
        overlays = self.overlays()
        cards = [
            {
                "name": self.title(run, stage),
                "charts": self.charts(stage),
                "epochs": bool(stage.curve and stage.curve.epoch_starts()),
                "speed": speed_table(stage.manifest, self.language),
            }
            for run, stage in self.trained
        ]
        shown = {
            "overview": True,
            "findings": bool(self.trained),
            "stages": any(view["stages"] for view in views),
            "overlay": bool(overlays),
            "curves": 0 < len(cards) <= MOST_DETAIL,
            "evaluation": any(view["tables"] for view in views),
            "side_by_side": any(view["answers"] for view in views),
            "inspection": any(view["inspections"] for view in views),
            "settings": any(view["manifests"] for view in views),
        }
        return {
            "title": " · ".join(run.name for run in self.runs),
            "place": str(self.runs[0].path) if len(self.runs) == 1 else "",
            "say": self.say,
            "sections": [name for name, present in shown.items() if present],
            "runs": views,
            "compared": self.compared() if len(self.runs) > 1 else None,
            "overlays": overlays,
            "findings_rows": self.findings(),
            "cards": cards,
        }

    def run(self, run: Run) -> dict[str, Any]:
        return {
            "name": run.name,
            "path": str(run.path),
            "tiles": tiles(run.scores, self.language) if len(self.runs) > 1 else self.tiles(run),
            "stages": [self.stage(run, stage) for stage in run.stages] if run.folder else [],
            "tables": tables(run.scores, self.language),
            "answers": answers(run.scores, self.language),
            "inspections": inspections(run, self.language),
            "manifests": [
                (stage.name, json.dumps(stage.manifest, ensure_ascii=False, indent=1))
                for stage in run.stages
                if stage.manifest
            ],
        }

    def tiles(self, run: Run) -> list[Tile]:
        found: list[Tile] = []
        parameters = [stage.parameters for stage in run.stages if stage.parameters]
        if parameters:
            found.append(Tile(self.say("parameters"), [number(parameters[-1])]))
        tokens = {
            stage.name: points[-1][1]
            for stage in run.trained()
            if stage.curve and (points := stage.curve.points("tokens"))
        }
        if tokens:
            found.append(Tile(self.say("tokens_trained"), [number(sum(tokens.values()))], self.listed(tokens)))
        for stage in run.trained():
            assert stage.curve is not None
            loss = stage.curve.points("loss")
            if not run.scores:
                note = f"{stage.name}{self.comma}{number(loss[-1][0])} {self.say('steps')}"
                found.append(Tile(self.say("loss"), [f"{loss[0][1]:.4g}", f"{loss[-1][1]:.4g}"], note))
        seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
        if seconds:
            found.append(Tile(self.say("time"), [clock(sum(seconds), self.language)]))
        return found + tiles(run.scores, self.language)

    def compared(self) -> Table:
        """One row a curve, for reports over several runs."""
        rows: list[list[Any]] = []
        for run, stage in self.trained:
            assert stage.curve is not None
            loss, rates = stage.curve.points("loss"), stage.curve.points("learning_rate")
            values = [value for _, value in loss]
            figures = [loss[-1][0], values[0], min(values), values[-1], max((rate for _, rate in rates), default=None)]
            rows.append([self.title(run, stage), *map(number, figures), clock(stage.seconds, self.language)])
        head = ["curve", "steps", "first", "lowest", "last", "highest_rate", "time"]
        return Table(self.say("loss"), [self.say(key) for key in head], rows)

    def stage(self, run: Run, stage: Stage) -> dict[str, Any]:
        return {
            "name": stage.name,
            "taken": self.amounts(flow.taken(stage.manifest, stage.curve)),
            "given": self.amounts(flow.given(stage.manifest, stage.curve)),
            "dropped": [
                (reason_in(reason, self.language), number(count), place_in(where, self.language))
                for reason, count, where in flow.dropped(stage.manifest)
            ],
            "page": self.page_of(run, stage),
            "counted": bool(stage.manifest) and not stage.curve,
            "time": clock(stage.seconds, self.language),
        }

    def page_of(self, run: Run, stage: Stage) -> str | None:
        """The way to the stage's own page."""
        page = run.path / stage.name / PAGE
        return Path(os.path.relpath(page, self.out)).as_posix() if page.is_file() else None

    def amounts(self, amounts: flow.Amounts) -> list[tuple[str, str]]:
        return [
            (self.comma.join(self.slashed(part) for part in name.split(", ")), number(value)) for name, value in amounts
        ]

    def listed(self, values: dict[str, float]) -> str:
        return self.comma.join(f"{name} {number(value)}" for name, value in values.items()) if len(values) > 1 else ""

    def slashed(self, name: str) -> str:
        return "/".join(map(self.say, name.split("/")))

    def findings(self) -> list[dict[str, Any]]:
        rows = []
        for run, stage in self.trained:
            findings = [
                {
                    "text": sentence(finding, self.language),
                    "style": "wrong"
                    if finding.wrong
                    else finding.kind
                    if finding.kind in ("calm", "short")
                    else "note-worthy",
                }
                for finding in stage.findings
            ]
            rows.append({"name": self.title(run, stage), "findings": findings})
        return rows

    def title(self, run: Run, stage: Stage) -> str:
        return stage.name if len(self.runs) == 1 or run.name == stage.name else f"{run.name} / {stage.name}"

    def charts(self, stage: Stage) -> list[dict[str, Any]]:
        curve = stage.curve
        assert curve is not None
        loss = self.training(curve)
        held_out = curve.points("held_out_loss")
        groups = [("loss", [*loss, Line(self.say("held_out"), held_out, 1, "dots")] if held_out else loss)]
        if curve.points("rewards_chosen"):
            pair = [("rewards_chosen", 2), ("rewards_rejected", 4)]
            groups.append(("rewards", [Line(self.say(name), curve.points(name), colour) for name, colour in pair]))
        groups += [(name, [Line(self.say(name), points, 0)]) for name in SINGLE if (points := curve.points(name))]
        groups += self.tagged(curve)
        return [self.drawn(self.say(name), lines, tuple(curve.epoch_starts())) for name, lines in groups]

    def tagged(self, curve: Curve) -> list[tuple[str, list[Line]]]:
        """Held-out loss by tag, a chart for each, of values beyond the palette's those that come first."""
        by_tag: dict[str, list[Line]] = {}
        for column in curve.columns():
            name, _, label = column.partition("/")
            tag, equals, value = label.partition("=")
            if name == "held_out_loss" and equals:
                lines = by_tag.setdefault(self.comma.join(map(self.say, (name, tag))), [])
                lines.append(Line(value, curve.points(column), len(lines), "dots"))
        return [(title, lines[:PALETTE]) for title, lines in by_tag.items()]

    def training(self, curve: Curve) -> list[Line]:
        """The training loss; a long one stands thin behind its average."""
        points = curve.points("loss")
        if len(points) < MANY_POINTS:
            return [Line(self.say("train"), points, 0)]
        return [Line(self.say("train"), points, BEHIND, "thin"), Line(self.say("average"), averaged(points), 0)]

    def overlays(self) -> list[dict[str, Any]]:
        """Curves of one objective over each other, where there are several."""
        groups: dict[str, list[Line]] = {}
        for run, stage in self.trained:
            assert stage.curve is not None
            lines = groups.setdefault(_objective(stage.curve), [])
            points = stage.curve.points("loss")
            shown = points if len(points) < MANY_POINTS else averaged(points)
            lines.append(Line(self.title(run, stage), shown, len(lines) % PALETTE))
        several = {name: lines for name, lines in groups.items() if len(lines) > 1} if len(self.runs) > 1 else {}
        return [
            self.drawn(self.comma.join((self.say("loss"), name)), lines, (), WIDE) for name, lines in several.items()
        ]

    def drawn(self, title: str, lines: list[Line], marks: tuple[float, ...], width: int = NARROW) -> dict[str, Any]:
        legend = [
            swatch(line, line.name if len(lines) > 1 else "", _ends(line.points)) for line in lines if line.points
        ]
        return {"title": title, "svg": Chart(title, lines, marks, self.say("step"), width).svg(), "legend": legend}


def _objective(curve: Curve) -> str:
    """What a curve can be compared with: preference losses, fine-tuning on conversations, or text from scratch."""
    if curve.points("rewards_accuracy"):
        return next((name for name in ("reward", "kto", "orpo", "simpo") if name in curve.name.lower()), "dpo")
    return "sft" if "sft" in curve.name.lower() else "pretrain"


def _ends(points: Points) -> str:
    """The first and the last value."""
    values = [number(value) for _, value in (points[0], points[-1])]
    return " → ".join(values if len(points) > 1 else values[:1])
