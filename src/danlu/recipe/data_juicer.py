"""`danlu clean data-juicer`: a recipe of data-juicer's shown as danlu's, and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.recipe.scorers import scorers_of
from danlu.text.data_juicer import Translation, translate
from danlu.text.settings import CleanSettings


def run_data_juicer(path: Path, out: Path | None, *, leave_out: bool) -> None:
    """Prints a data-juicer recipe as a `clean` section with what differs; with `out`, cleans into that folder."""
    translation = translate(path, leave_out=leave_out)
    print(as_yaml(translation), end="")
    if out is None:
        return
    if not translation.sources:
        raise UserError("the recipe names no data", where=str(path), do="write `dataset_path: FILE`")
    from danlu.text.clean import clean

    _require_tokenizer(translation, path)
    settings = check(CleanSettings, _section(translation))
    clean(settings, out, scorers_of(settings))


def as_yaml(translation: Translation) -> str:
    """The section of a danlu recipe, with what differs as comments."""
    section = _section(translation)
    lines = [f"# {note}" for note in translation.notes] + ["clean:"]
    lines += ["  sources:", *(f"    - {flow(source)}" for source in section["sources"] or [{"path": "…"}])]
    lines += ["  steps:", *(f"    - {flow(step)}" for step in section["steps"])]
    return "\n".join([*lines, f"  workers: {translation.workers}", ""])


def _section(translation: Translation) -> dict[str, Any]:
    sources = [{"path": path} for path in translation.sources]
    return {"sources": sources, "steps": translation.steps, "workers": translation.workers}


def _require_tokenizer(translation: Translation, path: Path) -> None:
    for step in translation.steps:
        if step["op"] == "tokens" and not Path(step["tokenizer"] or "").exists():
            raise UserError(
                f"token_num_filter: no tokenizer at {step['tokenizer']!r}",
                where=str(path),
                do="download it and name its folder as `hf_tokenizer`: danlu does not use the network",
            )


def flow(value: Any) -> str:
    """YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
