"""The flow of characters through the steps as a picture: a band from left to right, from which drops fall."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, BELOW = 1180, 52
LEFT, RIGHT, BAND, LINE = 4, 104, 120, 14
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

    # Names that are wider than their step stand on lines in turn.
    longest = max((_wide(reach.name) for reach in reaches), default=0)
    lines = max(1, math.ceil(longest / width))
    top = LINE * lines + 10
    parts = [
        Markup('<svg class="river" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, top + BAND + BELOW, title
        )
    ]
    for place, reach in enumerate(reaches):
        x, bend = LEFT + place * width, width * 0.55
        before, after = top + high(reach.came), top + high(reach.left)
        parts.append(
            Markup('<path class="band" d="M{0} {1}H{2}V{3}C{4} {3} {4} {5} {0} {5}Z"/>').format(
                _at(x), top, _at(x + width), _at(after), _at(x + bend), _at(before)
            )
        )
        if reach.fell:
            stream = max(LEAST, high(reach.fell))
            at, down = x + width * 0.6, top + BAND + 26
            upper = max(top + 2, before - stream)
            parts.append(
                Markup('<path class="fall" d="M{0} {1}C{2} {1} {2} {1} {2} {4}H{3}C{3} {5} {3} {5} {0} {5}Z"/>').format(
                    _at(x), _at(before), _at(at), _at(at + stream), _at(down), _at(upper)
                )
            )
            parts.append(_text("lost", at + stream / 2, down + 14, reach.label))
        parts.append(
            Markup("<g><title>{}</title>{}{}</g>").format(
                reach.title,
                Markup('<line class="gate" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    _at(x), top - 4, _at(top + BAND + 6)
                ),
                _text("name", x + 2, top - 8 - place % lines * LINE, reach.name, "start"),
            )
        )
    parts.append(_text("end", WIDTH - RIGHT + 8, top + 16, end, "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def _wide(text: str) -> float:
    """About how wide a text is."""
    return sum(11.5 if ord(letter) > 0x2E80 else 6.4 for letter in text) + 6


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _at(x), _at(y), anchor, text
    )


def _at(place: float) -> str:
    return f"{place:.1f}"
