"""`danlu clean data-juicer`: a recipe of data-juicer's shown as danlu's, and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from danlu.config import check
from danlu.ledger.errors import UserError
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

    clean(check(CleanSettings, _section(translation)), out, _scorers(translation, path))


def as_yaml(translation: Translation) -> str:
    """The section of a danlu recipe, with what differs as comments."""
    section = _section(translation)
    lines = [f"# {note}" for note in translation.notes] + ["clean:"]
    lines += ["  sources:", *(f"    - {flow(source)}" for source in section["sources"] or [{"path": "…"}])]
    lines += ["  steps:", *(f"    - {flow(step)}" for step in section["steps"])]
    return "\n".join([*lines, f"  workers: {translation.workers}", ""])


def token_counter(tokenizer: str) -> Callable[[list[str]], np.ndarray]:
    """What the step tokens asks: how many tokens each text has."""
    from danlu.tokens.tokenizer import Tokenizer

    loaded = Tokenizer.load(Path(tokenizer))
    return lambda texts: np.array([len(loaded.encode(text)) for text in texts])


def _section(translation: Translation) -> dict[str, Any]:
    sources = [{"path": path} for path in translation.sources]
    return {"sources": sources, "steps": translation.steps, "workers": translation.workers}


def _scorers(translation: Translation, path: Path) -> dict[str, Any]:
    if not any(step["op"] == "tokens" for step in translation.steps):
        return {}
    if not translation.tokenizer or not Path(translation.tokenizer).exists():
        raise UserError(
            f"token_num_filter: no tokenizer at {translation.tokenizer!r}",
            where=str(path),
            do="download it and name its folder as `hf_tokenizer`: danlu does not use the network",
        )
    made_by = {"function": "danlu.recipe.data_juicer:token_counter", "arguments": {"tokenizer": translation.tokenizer}}
    return {"tokens": made_by}


def flow(value: Any) -> str:
    """YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
