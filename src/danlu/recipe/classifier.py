"""`danlu clean train-classifier`: from labelled texts to a folder that cleaning steps read, and what it is worth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.ledger.progress import progress
from danlu.recipe.data_juicer import flow
from danlu.recipe.tokenizers import terminal_table
from danlu.report.classifier import Tested, sections
from danlu.report.tokenizers import write_page
from danlu.report.words import Language
from danlu.text.classifiers.hashed import HashedClassifier, Shape
from danlu.text.classifiers.labelled import Example, Fields, Labelled, labels_of, read_as, read_labelled

_BATCH = 64  # texts


@dataclass(frozen=True, slots=True)
class Training:
    """What is learned from, and how it is tested. `good` and `bad` are sources of which every record is an example."""

    labelled: list[Path] = field(default_factory=list)
    good: list[Path] = field(default_factory=list)
    bad: list[Path] = field(default_factory=list)
    test: list[Path] = field(default_factory=list)
    fields: Fields = field(default_factory=Fields)
    held_out: float = 0.1
    precision: float = 0.95
    epochs: int = 5
    seed: int = 0


def train_classifier(training: Training, out: Path, language: Language) -> Tested:
    """Writes classifier.json, classifier.safetensors, training.json and report.html to the new folder `out`.

    Prints what could not be used, precision and recall by label and threshold, the worst mistakes, and the steps to
    copy into a recipe. Raises UserError for a folder that exists, and for labels with too few texts.
    """
    from danlu.train.classifier import fit

    _check(training, out)
    counts = Counts()
    learned, held = _examples(training, counts)
    labels = labels_of(learned, held)
    with progress("train", training.epochs * len(learned), "texts") as bar:
        places = [labels.index(example.label) for example in learned]
        texts = [example.text for example in learned]
        classifier = fit(texts, places, Shape(labels=labels), bar, epochs=training.epochs, seed=training.seed)
    tested = Tested(held, _probabilities(classifier, held), labels)
    tables = sections(tested, training.precision, language)
    with atomic_folder(out) as folder:
        classifier.save(folder)
        (folder / "training.json").write_text(_record(training, tested, counts, len(learned)), "utf-8")
        write_page(tables, out.name, language, folder / "report.html", headline="classifier")
    console = Console(highlight=False)
    for reason, entry in counts.as_dict().items():
        console.print(
            f"{reason}: {entry['count']:,}", *entry["examples"][:2], style="dim", markup=False, soft_wrap=True
        )
    for section in tables.values():
        for table in section:
            console.print(terminal_table(table))
    _tell_steps(console, tested, training.precision, out)
    return tested


def _check(training: Training, out: Path) -> None:
    if out.exists():
        raise UserError("this folder exists", where=str(out), do="name a new one, or remove it first")
    if bool(training.good) != bool(training.bad) or not (training.labelled or training.good):
        raise UserError("there is nothing to tell apart", do="give labelled files, or both --good and --bad")
    if not 0 < training.held_out < 1 or not 0 < training.precision <= 1:
        raise UserError("--held-out and --precision are shares between 0 and 1", do="such as 0.1 and 0.95")


def _examples(training: Training, counts: Counts) -> tuple[list[Example], list[Example]]:
    """(to learn from, held out)."""
    examples = Labelled(counts)
    for path in training.test:
        examples.add(read_labelled(path, training.fields, counts), test=True)
    for path in training.labelled:
        examples.add(read_labelled(path, training.fields, counts))
    for label, paths in (("good", training.good), ("bad", training.bad)):
        for path in paths:
            examples.add(read_as(path, label, counts))
    return examples.split(training.held_out)


def _probabilities(classifier: HashedClassifier, examples: list[Example]) -> np.ndarray:
    found = []
    with progress("test", len(examples), "texts") as bar:
        for start in range(0, len(examples), _BATCH):
            texts = [example.text for example in examples[start : start + _BATCH]]
            found.append(classifier.probabilities(texts))
            bar.advance(len(texts))
    return np.concatenate(found)


def _record(training: Training, tested: Tested, counts: Counts, learned: int) -> str:
    """The settings, counts by reason, and the tables in English, as JSON."""
    found = sections(tested, training.precision, "en")
    content = {
        "training": asdict(training),
        "learned": learned,
        "held_out": len(tested.examples),
        "counts": counts.as_dict(),
        "tables": {key: [asdict(table) for table in tables] for key, tables in found.items()},
    }
    return json.dumps(content, ensure_ascii=False, indent=1, default=str)


def _tell_steps(console: Console, tested: Tested, precision: float, out: Path) -> None:
    for label in tested.labels:
        best = tested.threshold(label, precision)
        if best is None:
            console.print(f"{label}: no threshold has a precision of {precision:.0%}", markup=False)
            continue
        step = {"op": "classifier", "path": str(out), "label": label, "score": {"max": float(f"{best[0]:.9g}")}}
        worth = f"drops {best[2]:.1%} of {label} with a precision of {best[1]:.1%}"
        console.print(f"{worth}:\n  - {flow(step)}", markup=False, soft_wrap=True)
    console.print(f"→ {out}/report.html", markup=False, soft_wrap=True)
