"""Tokenizers side by side: tables, for the terminal and for one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from danlu.ledger.files import atomic_file
from danlu.report.reasons import language_name
from danlu.report.scores import Table
from danlu.report.words import Language, number, say
from danlu.tokens.study import EDGES, HABITS, ODD, Study, visible

NOT_GIVEN = "generated"
"""What text is called that nobody gave."""
_HABITS = {"mixed": "mixed_scripts"}


def sections(studies: list[Study], language: Language) -> dict[str, list[Table]]:
    """The tables of each section, in order; a column for each tokenizer."""
    made = _Tables(studies, language)
    return {
        "tokenizers": [made.overview()],
        "density": [made.density()],
        "habits": [made.habits(kind) for kind in HABITS],
        "round_trip": [made.round_trip()],
        "vocabulary": [made.odd(), *made.examples()],
        "special": [made.special()],
    }


def write_page(
    found: dict[str, list[Table]], title: str, language: Language, path: Path, headline: str = "tokenizers"
) -> None:
    """Writes the sections as one HTML file that needs no network."""
    environment = Environment(loader=PackageLoader("danlu.report", "page"), autoescape=True, trim_blocks=True)
    loader = environment.loader
    assert loader is not None
    style, script = (Markup(loader.get_source(environment, name)[0]) for name in ("style.css", "chart.js"))
    page = environment.get_template("tables.html.jinja").render(
        title=title,
        headline=headline,
        sections=list(found),
        tables=found,
        say=lambda key: say(key, language),
        style=style,
        script=script,
        language=language,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    with atomic_file(path) as handle:
        handle.write(page)


class _Tables:
    def __init__(self, studies: list[Study], language: Language) -> None:
        self.studies, self.language = studies, language
        self.names = [study.name for study in studies]

    def say(self, key: str) -> str:
        text = say(key, self.language)
        return text[:1].upper() + text[1:]

    def overview(self) -> Table:
        values: dict[str, Callable[[Study], Any]] = {
            "form": lambda study: study.form,
            "entries": lambda study: f"{study.entries:,}",
            "special": lambda study: len(study.special),
            "encoder": lambda study: study.encoder,
        }
        return self._table("tokenizers", "", [[self.say(key), *map(of, self.studies)] for key, of in values.items()])

    def density(self) -> Table:
        kinds = list(dict.fromkeys(kind for study in self.studies for kind in study.densities))
        rows = []
        for language, source in sorted(kinds):
            cells = [study.densities.get((language, source)) for study in self.studies]
            origin = say(NOT_GIVEN, self.language) if source == NOT_GIVEN else source
            name = f"{language_name(language, self.language)} · {origin}"
            rows.append([name, *(f"{cell.bytes_per_token:.3f}" if cell else "–" for cell in cells)])
        return self._table("density", "text", rows, note="density_note")

    def habits(self, kind: str) -> Table:
        rows = [
            [visible(text.encode()), *(" │ ".join(study.habits[kind][text]) for study in self.studies)]
            for text in HABITS[kind]
        ]
        return self._table(_HABITS.get(kind, kind), "text", rows, words=True)

    def round_trip(self) -> Table:
        rows: list[list[Any]] = [
            [self.say(f"texts_{trip}"), *(number(study.trips[trip]) for study in self.studies)]
            for trip in ("same", "nfc", "changed")
        ]
        if any(study.first_change for study in self.studies):
            rows.append([self.say("first_change"), *(study.first_change for study in self.studies)])
        rows += [[self.say(f"edge_{case}"), *(_mark(study.edges[case]) for study in self.studies)] for case in EDGES]
        return self._table("round_trip", "text", rows, words=True, note="round_trip_note")

    def odd(self) -> Table:
        rows = [[self.say(kind), *(f"{study.odd[kind].count:,}" for study in self.studies)] for kind in ODD]
        return self._table("vocabulary", "kind", rows)

    def examples(self) -> Iterable[Table]:
        for study in self.studies:
            found = {kind: study.odd[kind].examples for kind in ODD if study.odd[kind].count}
            rows = [[self.say(kind), " │ ".join(examples)] for kind, examples in found.items()]
            yield Table(study.name, [self.say("kind"), self.say("examples")], rows, names=2)

    def special(self) -> Table:
        rows = []
        for study in self.studies:
            roles = {text: name for name, text in study.named.items()}
            shown = [
                f"{id} {text}" + (f" ({roles[text]})" if text in roles else "") for text, id in study.special.items()
            ]
            rows.append([study.name, " │ ".join(shown)])
        return Table(self.say("special"), [self.say("tokenizer"), self.say("special")], rows, names=2)

    def _table(self, title: str, head: str, rows: list[list[Any]], *, words: bool = False, note: str = "") -> Table:
        names = len(self.names) + 1 if words else 1
        return Table(self.say(title), [self.say(head), *self.names], rows, names, self.say(note))


def _mark(edge: str) -> str:
    return {"same": "✓", "nfc": "✓ NFC"}.get(edge) or f"✗ {visible(edge.encode())}"
