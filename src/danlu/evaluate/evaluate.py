"""Measures models task by task; a task that is done for a model is never done again."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.evaluate.bits_per_byte import nothing_held_out
from danlu.evaluate.repetition import Answer, repetition
from danlu.evaluate.settings import EvaluateSettings
from danlu.evaluate.side_by_side import markdown
from danlu.evaluate.tasks import SAMPLED, Task, tasks
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import Stopped
from danlu.ledger.files import atomic_file, fingerprint, read_json, sha256_file
from danlu.ledger.signals import graceful_stop
from danlu.model.open import shape_of

if TYPE_CHECKING:
    from danlu.evaluate.ask import Form
    from danlu.infer.model import Model

RESULTS = "results.json"
Results = dict[str, dict[str, Any]]


def evaluate(
    settings: EvaluateSettings, models: Mapping[str, Path], out: Path, *, device: str | None = None
) -> Results:
    """Measures every model on every task of the settings, whose paths must be absolute or relative to here.

    `models` maps names to Hugging Face folders, checkpoints, stages or runs. Writes `out`/results.json
    {model: {task: values}}, the rows behind them to `out`/samples/MODEL/TASK.jsonl and the answers side by side to
    `out`/side_by_side.md, and gives the results. What `out`/tasks holds for the same model, files and settings is
    taken as it is, so that a broken-off evaluation goes on. Raises Stopped when asked to stop, between two tasks.
    """
    planned = {task.name: (task, task.inputs()) for task in tasks(settings)}
    for told in filter(None, (nothing_held_out(*one) for one in settings.held_out.items())):
        print(f"evaluate: {told}", file=sys.stderr)
    results: Results = {}
    with graceful_stop() as stop:
        for name, path in models.items():
            measured = _Measured(settings, name, path, out, device)
            results[name] = {}
            for task, inputs in (one for one in planned.values() if one[0].rewards == measured.rewards):
                results[name][task.name] = measured.values(task, inputs)
                if stop.requested:
                    raise Stopped(f"evaluation stopped after {name}, {task.name}; the same command goes on from there")
            if not measured.rewards:
                results[name] |= _repetition(measured, [task for task, _ in planned.values()])
    _write(out / RESULTS, results)
    shown = {name: values["side_by_side"] for name, values in results.items() if "side_by_side" in values}
    if shown:
        with atomic_file(out / "side_by_side.md") as handle:
            handle.write(markdown(shown))
    return results


class _Measured:
    """One model and what is known of it; its weights are loaded when the first task needs them."""

    def __init__(self, settings: EvaluateSettings, name: str, path: Path, out: Path, device: str | None) -> None:
        self.settings, self.name, self.device = settings, name, device
        self.checkpoint = resolve_checkpoint(path)
        self.rewards = shape_of(self.checkpoint).head == "reward"
        self.out, self.folder = out, re.sub(r"[^\w.-]+", "_", name).strip("_")
        self._model: Model | None = None
        self._hash: str | None = None

    def values(self, task: Task, inputs: Any) -> dict[str, Any]:
        """The task's values, from the folder or measured now."""
        path = self.out / "tasks" / self.folder / f"{task.name}.json"
        raw = self.name in self.settings.raw
        key = fingerprint([task.name, self._fingerprint(), raw, inputs])
        if path.is_file():
            record = read_json(path, "delete this file, and run again")
            if record["key"] == key:
                values: dict[str, Any] = record["values"]
                return values
        model = self._loaded()
        form: Form = "raw" if raw or model.template is None else "chat"
        values, rows = task.run(model, form, f"{self.name}, {task.name}")
        with atomic_file(self.samples(task)) as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write(path, {"key": key, "values": values})
        return values

    def samples(self, task: Task) -> Path:
        return self.out / "samples" / self.folder / f"{task.name}.jsonl"

    def _loaded(self) -> Model:
        from danlu.infer.model import load

        if self._model is None:
            self._model = load(self.checkpoint, self.device, max_batch=self.settings.batch)
        return self._model

    def _fingerprint(self) -> str:
        """Of everything in the checkpoint that decides an answer; the optimizer's state does not."""
        if self._hash is None:
            files = sorted(
                file for file in self.checkpoint.iterdir() if file.suffix in (".json", ".safetensors", ".jinja")
            )
            self._hash = fingerprint([(file.name, sha256_file(file)) for file in files if file.name != "manifest.json"])
        return self._hash


def _repetition(measured: _Measured, planned: list[Task]) -> Results:
    """Over the sampled answers, else over those to questions, references and prompts; in all and by language."""
    languages: dict[str, list[Answer]] = {}
    spoken = [task for task in planned if task.answers]
    for task in [task for task in spoken if task.name == SAMPLED] or spoken:
        for line in measured.samples(task).read_text("utf-8").splitlines():
            row = json.loads(line)
            languages.setdefault(row["language"], []).append(Answer(row["tokens"], row["text"], row["ended"]))
    if not languages:
        return {}
    whole = repetition([answer for answers in languages.values() for answer in answers])
    parts = {language: repetition(answers) for language, answers in sorted(languages.items())}
    return {"repetition": {**whole, "language": parts}}


def _write(path: Path, content: Any) -> None:
    with atomic_file(path) as handle:
        json.dump(content, handle, ensure_ascii=False, indent=1)
        handle.write("\n")
