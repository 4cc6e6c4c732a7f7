"""The flow of characters through the steps as a picture: a band from left to right, from which drops fall."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 1180, 214
LEFT, RIGHT, TOP, BAND = 4, 104, 42, 120
LEAST = 1.6
"""A stream is at least so high, so that it can be seen."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A step of the river: what came, what went on, what fell out; labels say it in words."""

    name: str
    came: float
    left: float
    fell: float
    label: str
    title: str


def river(title: str, reaches: list[Reach], end: str) -> Markup:
    """The picture; `end` says what arrives."""
    whole = max((reach.came for reach in reaches), default=0) or 1.0
    width = (WIDTH - LEFT - RIGHT) / max(1, len(reaches))

    def high(amount: float) -> float:
        return BAND * amount / whole if amount else 0.0

    parts = [Markup('<svg class="river" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for place, reach in enumerate(reaches):
        x, bend = LEFT + place * width, width * 0.55
        before, after = TOP + high(reach.came), TOP + high(reach.left)
        parts.append(
            Markup('<path class="band" d="M{0} {1}H{2}V{3}C{4} {3} {4} {5} {0} {5}Z"/>').format(
                _at(x), TOP, _at(x + width), _at(after), _at(x + bend), _at(before)
            )
        )
        if reach.fell:
            stream = max(LEAST, high(reach.fell))
            at, down = x + width * 0.6, TOP + BAND + 26
            top = max(TOP + 2, before - stream)
            parts.append(
                Markup('<path class="fall" d="M{0} {1}C{2} {1} {2} {1} {2} {4}H{3}C{3} {5} {3} {5} {0} {5}Z"/>').format(
                    _at(x), _at(before), _at(at), _at(at + stream), _at(down), _at(top)
                )
            )
            parts.append(_text("lost", at + stream / 2, down + 14, reach.label))
        parts.append(
            Markup("<g><title>{}</title>{}{}</g>").format(
                reach.title,
                Markup('<line class="gate" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    _at(x), TOP - 4, _at(TOP + BAND + 6)
                ),
                _text("name", x + 2, TOP - 8 - place % 2 * 14, reach.name, "start"),
            )
        )
    parts.append(_text("end", WIDTH - RIGHT + 8, TOP + 16, end, "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _at(x), _at(y), anchor, text
    )


def _at(place: float) -> str:
    return f"{place:.1f}"
