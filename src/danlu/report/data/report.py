"""Writes the report of a cleaned folder: one HTML file that needs no other file and no network."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.ledger.manifest import RUN, read_manifest, run_name
from danlu.report.data.panels import panels_of
from danlu.report.data.samples import take_samples
from danlu.report.data.script import script_data
from danlu.report.data.view import View
from danlu.report.words import Language
from danlu.text.cleaning.trail import TRAIL, read_trail

__all__ = ["PAGE", "TRAIL", "write_data_report"]

PAGE = "report.html"


def write_data_report(folder: Path, language: Language = "en", out: Path | None = None) -> Path:
    """Writes report.html into `out`, by default `folder`, about what was cleaned in `folder`. Gives its path.

    Counts are of the whole corpus and come from what cleaning wrote down; examples come from a bounded sample.
    Raises UserError where nothing was cleaned, or a file that was read is no longer what it was.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("stage") != "clean":
        raise UserError(
            "no finished clean stage here", where=str(folder), do="name a run's `clean` folder, or run it to its end"
        )
    trail = read_trail(folder)
    panels = panels_of(trail)
    view = View(trail, manifest, panels, take_samples(trail, panels), language)
    environment = Environment(loader=PackageLoader("danlu.report", "page"), autoescape=True, trim_blocks=True)
    loader = environment.loader
    assert loader is not None
    assets = {name: loader.get_source(environment, name)[0] for name in ("style.css", "data.css", "data.js")}
    page = environment.get_template("data.html.jinja").render(
        **view.content(),
        title=_title(folder),
        place=str(folder),
        headline="data_report",
        say=view.say,
        rows=len(trail.settings.steps) + 2,
        data=_embedded(script_data(view)),
        style=Markup(assets["style.css"] + assets["data.css"]),
        script=Markup(assets["data.js"]),
        language=language,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        settings_text=json.dumps(manifest["settings"], ensure_ascii=False, indent=1),
    )
    path = (out or folder) / PAGE
    with atomic_file(path) as handle:
        handle.write(page)
    return path


def _title(folder: Path) -> str:
    """The name of the run whose stage it is, else the folder's."""
    run = folder.resolve().parent
    return run_name(run if (run / RUN).is_file() else folder)


def _embedded(content: object) -> Markup:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
