"""The life of a record in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from danlu.report.data.findings import short_value
from danlu.report.data.passages import Cover, beginning, changes, said

if TYPE_CHECKING:
    from danlu.recipe.explain import Training
    from danlu.text.cleaning.life import Event, Life

SHOWN = 400  # characters of a text
MOST_SIGHTS = 12
_STYLES = {"=": "", "-": "red strike", "+": "green"}


def print_life(life: Life, trained: list[Training], cover: Cover) -> None:
    """Prints what happened to a record, step by step."""
    console = Console(highlight=False)
    about = " · ".join(filter(None, (life.kind, life.source, life.language, f"hash {life.hash:016x}")))
    console.print(Text.assemble((life.origin, "bold"), f"  {about}"))
    console.print(Text(life.file, "dim"))
    console.print(_inset(Text(beginning(cover(said(life.original)), SHOWN), "dim")))
    for event in life.events:
        _print_event(console, event, cover)
    if life.twin is not None:
        console.print(Text.assemble("  its twin ", (life.twin[0], "bold"), ": red is here alone, green there alone"))
        console.print(_inset(_diff(console, cover(said(life.last)), cover(said(life.twin[1])))))
    console.print(Text("kept", "bold green") if life.kept else Text("dropped", "bold red"))
    for one in trained:
        _print_training(console, one)
    console.print()


def _print_event(console: Console, event: Event, cover: Cover) -> None:
    mark = ("✗", "bold red") if event.reason is not None else ("~", "yellow") if event.before is not None else ("·", "")
    line = Text.assemble("  ", mark, " ", (event.step, "bold"))
    for name, value in event.values.items():
        line.append(f"  {name} ", "dim")
        line.append(short_value(value, cover))
        line.append(_bounds(*event.bounds.get(name, (None, None))), "dim")
    if event.reason is not None:
        known = isinstance(event.value, dict) and event.value.keys() <= event.values.keys()
        line.append(f"  dropped: {event.reason} {'' if known else short_value(event.value, cover)}", "red")
    console.print(line)
    if event.before is not None and event.after is not None:
        console.print(_inset(_diff(console, cover(said(event.before)), cover(said(event.after)))))


def _print_training(console: Console, one: Training) -> None:
    where = "held out, never trained on" if one.split == "held_out" else f"{one.tokens} tokens"
    console.print(Text.assemble("  ", (one.stage, "bold"), f"  {where}: {'; '.join(one.places[:4])}"))
    for sight in one.sights[:MOST_SIGHTS]:
        seen = f"step {sight.step}" if sight.step is not None else "not reached yet"
        cut = f" ({sight.cut})" if sight.cut else ""
        console.print(Text(f"    epoch {sight.epoch + 1}: {seen}, position {sight.position}{cut}"))
    if len(one.sights) > MOST_SIGHTS:
        console.print(Text(f"    and {len(one.sights) - MOST_SIGHTS} more", "dim"))


def _bounds(low: float | None, high: float | None) -> str:
    return (f" ≥ {low:g}" if low is not None else "") + (f" ≤ {high:g}" if high is not None else "")


def _diff(console: Console, before: str, after: str) -> Text:
    """What went in red and what came in green; in brackets where there are no colours."""
    marks = {"=": "{}", "-": "{}", "+": "{}"} if console.is_terminal else {"=": "{}", "-": "[-{}-]", "+": "{{+{}+}}"}
    edits = changes(before, after)
    return Text.assemble(*((marks[edit.sign].format(edit.text), _STYLES[edit.sign]) for edit in edits))


def _inset(content: Any) -> Padding:
    return Padding(content, (0, 2, 0, 6))
