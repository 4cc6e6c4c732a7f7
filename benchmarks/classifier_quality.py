"""What classifiers trained by `danlu clean train-classifier` are worth on real zh and en text.

    python benchmarks/classifier_quality.py [DATA] [RESULT.json]

Each task is tested on texts that it did not learn from: `textbook` on other books and other sources than it learned
from, `harmful zh` on other conversations than it learned from (what users say in MOSS's conversations of the sort
harmless, where they try to get harm out of it, against all its others), `harmful en` (first turns of red teams against
ordinary ones) and `junk` (real text against the bad texts of the
self-test) on a fifth held out, `new junk` on categories of junk and sources of text that it has not seen, `listed` on
sentences that hold a word of the lists, which stand for labels that a list gives.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from danlu.evaluate.classification import average_precision, by_label
from danlu.recipe.classifier import Training, train_classifier
from danlu.text.ops.keywords import matcher, matches
from danlu.text.ops.unsuitable import sentences
from danlu.text.readers import read_rows
from danlu.text.selftest.samples import SelfTestLanguage, samples

PRECISION = 0.95
OTHER_BOOKS = ("physics", "sociology", "economics")
OTHER_SOURCES = ("swift", "powershell", "18F")
SOURCES: dict[SelfTestLanguage, tuple[list[str], list[str]]] = {
    "zh": (["articles", "docs", "law", "poetry"], ["textbooks", "classical"]),
    "en": (["articles", "docs", "books"], ["textbooks", "specs"]),
}
TALK = {"zh": ["sft/alpaca_zh", "sft/emollm_zh", "sft/sharegpt_zh_1k"], "en": ["preference/hh_rlhf_harmless_en"]}
Rows = list[dict[str, str]]
Task = tuple[str, Rows, Rows, str]
"""Name, rows to learn from, rows to test on (none: a fifth is held out), and the label that is looked for."""


def fields(data: Path, name: str, most: int) -> Iterator[dict[str, Any]]:
    return (row.fields for row in islice(read_rows(data / f"{name}.jsonl.zst"), most))


def labelled(texts: list[str], label: str) -> Rows:
    return [{"text": text, "label": label} for text in texts]


def textbook(data: Path) -> Task:
    learn: Rows = []
    test: Rows = []
    for file in sorted((data / "pretrain" / "en").glob("*.zst")):
        book = file.name.startswith("textbooks")
        for row in fields(file.parent, file.name.removesuffix(".jsonl.zst"), 900 if book else 150):
            other = any(name in row["source"] for name in (OTHER_BOOKS if book else OTHER_SOURCES))
            (test if other else learn).append({"text": row["text"], "label": "textbook" if book else "other"})
    return "textbook", learn, test, "textbook"


def harmful_zh(data: Path) -> Task:
    learn: Rows = []
    test: Rows = []
    found = [row for row in fields(data, "sft/moss_chat", 9999) if row["lang"] == "zh"]
    harmless = [row for row in found if "/harmless_conversations/" in row["source"]]
    for label, rows in (("harmful", harmless), ("ordinary", [row for row in found if row not in harmless])):
        for number, row in enumerate(rows):  # whole conversations, as the turns of one have one subject
            said = [message["content"] for message in row["messages"] if message["role"] == "user"]
            (learn if number % 3 else test).extend(labelled(said, label))
    return "harmful zh", learn, test, "harmful"


def harmful_en(data: Path) -> Task:
    red = [row["prompt"][0]["content"] for row in fields(data, "preference/hh_rlhf_harmless_en", 9999)]
    calm = [
        row["messages"][0]["content"] for name in ("alpaca_en", "sgd_en") for row in fields(data, f"sft/{name}", 2000)
    ]
    return "harmful en", labelled(red, "harmful") + labelled(calm, "ordinary"), [], "harmful"


def junk(data: Path, language: SelfTestLanguage, *, new: bool) -> Task:
    bad = [sample for sample in samples((language,), 0, 60) if not sample.good]
    half = set(sorted({sample.category for sample in bad})[::2])
    good = [
        labelled(
            [row["text"][:5000] for name in names for row in fields(data / "pretrain" / language, f"{name}-00", 500)],
            "good",
        )
        for names in SOURCES[language]
    ]
    learn = good[0] + labelled([sample.text for sample in bad if sample.category in half], "bad")
    test = good[1] + labelled([sample.text for sample in bad if sample.category not in half], "bad")
    return (f"new junk {language}", learn, test, "bad") if new else (f"junk {language}", learn + test, [], "bad")


def listed(data: Path, language: SelfTestLanguage) -> Task:
    words = matcher([str(data / "lists" / f"bad_words_{language}.txt")])
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in TALK[language]:
        for row in fields(data, name, 9999):
            for turn in row.get("messages") or row["prompt"]:
                for sentence in map(str.strip, sentences(turn["content"][:1500])):
                    hit = any(len(keyword.word) > 1 for *_, keyword in matches(words, sentence.lower()))
                    found[hit].append(sentence)
    rest = random.Random(0).sample(found[False], min(len(found[False]), 10 * len(found[True])))
    return f"listed {language}", labelled(found[True], "unsuitable") + labelled(rest, "ordinary"), [], "unsuitable"


def worth(task: Task, folder: Path) -> dict[str, Any]:
    name, learn, test, label = task
    files = [folder / f"{name} {part}.jsonl" for part in ("learn", "test")]
    for file, rows in zip(files, (learn, test), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["text"].strip()), "utf-8")
    training = Training([files[0]], test=[files[1]] if test else [], held_out=0.2, precision=PRECISION)
    tested = train_classifier(training, folder / name, "en")
    place = tested.labels.index(label)
    right, scores = tested.truth == place, tested.probabilities[:, place]
    found, best = by_label(tested.truth, tested.probabilities)[place], tested.threshold(label, PRECISION)
    return {
        "tested": f"{right.sum():,} of {len(right):,}",
        "precision": found.precision,
        "recall": found.recall,
        "F1": found.f1,
        "average precision": average_precision(right, scores),
        f"recall at {PRECISION:.0%}": best[2] if best else None,
    }


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    both: tuple[SelfTestLanguage, ...] = ("zh", "en")
    tasks = [
        textbook(data),
        harmful_zh(data),
        harmful_en(data),
        *(junk(data, one, new=new) for new in (False, True) for one in both),
    ]
    tasks += [listed(data, language) for language in both]
    with TemporaryDirectory() as folder:
        result = {task[0]: worth(task, Path(folder)) for task in tasks}
    table = Table("task", *next(iter(result.values())))
    for name, values in result.items():
        table.add_row(name, *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values.values()))
    Console(width=110).print(table)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
