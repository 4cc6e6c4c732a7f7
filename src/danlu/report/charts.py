"""Line charts as inline SVG: colours and fonts come from the page, so that they follow its light or dark theme."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from danlu.report.curves import Points

NARROW, WIDE, HEIGHT = 640, 1180, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 30
MOST_POINTS = 600
"""A longer line is thinned to its lowest and highest points, so that no spike is lost."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `colour` is its place in the page's palette; `form` thin is for what stands behind."""

    name: str
    points: Points
    colour: int
    form: Literal["line", "dots", "thin"] = "line"


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over a shared x axis; `marks` are x positions of dashed lines."""

    title: str
    lines: list[Line]
    marks: tuple[float, ...] = ()
    x_title: str = ""
    width: int = NARROW

    def svg(self) -> Markup:
        """The chart; values for the pointer's read-out lie in its data-lines attribute."""
        lines = [Line(line.name, _thinned(line.points), line.colour, line.form) for line in self.lines if line.points]
        x = _Axis.over([step for line in lines for step, _ in line.points], LEFT, self.width - RIGHT, zero=True)
        y = _Axis.over(_inside(lines), HEIGHT - BOTTOM, TOP)
        data = [
            {"name": line.name, "colour": line.colour, "points": [[_short(a), _short(b)] for a, b in line.points]}
            for line in lines
        ]
        frame = {"x": [x.low, x.high], "box": [LEFT, self.width - RIGHT, TOP, HEIGHT - BOTTOM]}
        parts = [
            Markup(
                '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" data-frame="{}" data-lines="{}">'
            ).format(self.width, HEIGHT, self.title, json.dumps(frame), json.dumps(data, ensure_ascii=False)),
            *_grid(x, y),
            Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">').format(
                LEFT, TOP - 3, self.width - RIGHT - LEFT + 3, HEIGHT - BOTTOM - TOP + 6
            ),
            *(
                Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    _at(x(mark)), TOP, HEIGHT - BOTTOM
                )
                for mark in self.marks
            ),
            *(_drawn(line, x, y) for line in lines),
            Markup("</svg>"),
            Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
                self.width - RIGHT, HEIGHT - BOTTOM + 17, self.x_title
            ),
            Markup('<line class="pointer" y1="{}" y2="{}"/></svg>').format(TOP, HEIGHT - BOTTOM),
        ]
        return Markup("").join(parts)


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: list[float], start: float, end: float, *, zero: bool = False) -> _Axis:
        low, high = min(values, default=0.0), max(values, default=1.0)
        if zero:
            low = min(low, 0.0)
        else:
            margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
            low, high = low - margin, high + margin
        return cls(low, high if high > low else low + 1, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round numbers inside the axis."""
        rough = (self.high - self.low) / count
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _inside(lines: list[Line]) -> list[float]:
    """The values that set the y range: all but the highest twentieth where those tower above the rest, as the first
    losses of a random model do."""
    values = sorted(value for line in lines for _, value in line.points)
    kept = values[: max(1, math.ceil(0.95 * len(values)))]
    return kept if values and values[-1] - kept[0] > 2.5 * (kept[-1] - kept[0]) > 0 and len(values) > 20 else values


def _grid(x: _Axis, y: _Axis) -> list[Markup]:
    horizontal = [
        Markup(
            '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
            '<text class="tick" x="{3}" y="{4}" text-anchor="end">{5}</text>'
        ).format(x.start, x.end, _at(y(tick)), LEFT - 8, _at(y(tick) + 4), label(tick))
        for tick in y.ticks(5)
    ]
    vertical = [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _at(x(tick)), HEIGHT - BOTTOM + 17, label(tick)
        )
        for tick in x.ticks(6)
        if x(tick) < x.end - 40
    ]
    return horizontal + vertical


def _drawn(line: Line, x: _Axis, y: _Axis) -> Markup:
    places = [(_at(x(step)), _at(y(value))) for step, value in line.points]
    if len(places) == 1 or line.form == "dots":
        dots = Markup("").join(Markup('<circle cx="{}" cy="{}" r="2.6"/>').format(*place) for place in places)
        path = _path(places)
        return Markup('<g class="dots c{}">{}{}</g>').format(line.colour, path, dots)
    return Markup('<g class="{} c{}">{}</g>').format(line.form, line.colour, _path(places))


def _path(places: list[tuple[str, str]]) -> Markup:
    return Markup('<path d="M{}"/>').format("L".join(f"{a} {b}" for a, b in places))


def _thinned(points: Points) -> Points:
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: Points = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        pair = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(pair)
    return kept


def averaged(points: Points) -> Points:
    """The exponential average of a line over about a fiftieth of it, without the pull towards its start."""
    keep = 1 - 1 / max(1.0, len(points) / 50)
    total = weight = 0.0
    smooth: Points = []
    for step, value in points:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append((step, total / weight))
    return smooth


def label(value: float) -> str:
    """A tick's number: 0.5, 20k, 1e-6."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for suffix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= scale * (10 if suffix == "k" else 1):
            return f"{value / scale:g}{suffix}"
    return f"{float(f'{value:.6g}'):g}"


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _at(place: float) -> str:
    return f"{place:.1f}"


def swatch(line: Line, name: str, values: str) -> Markup:
    """A legend's entry, its sign drawn as the line is."""
    return Markup('<span class="key"><i class="{} b{}"></i>{} <b>{}</b></span>').format(
        line.form, line.colour, name, values
    )
