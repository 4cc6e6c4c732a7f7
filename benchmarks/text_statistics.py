"""Statistics of real zh and en text, MB of UTF-8 a CPU-second: danlu's operators beside datatrove's Gopher filters.

    python benchmarks/text_statistics.py [DATA] [RESULT.json]

danlu's operators are called as `clean` calls them: a batch of records in, columns out. `nine` is alphanumeric,
punctuation, special, digit and Han shares, longest and average line, duplicate lines and words, and what the same
operators give beside; `all` adds the repetition of character and word 10-grams. The peer is datatrove's
GopherQualityFilter and GopherRepetitionFilter with their default tokenizers, spaCy's for English and spaCy's with jieba
for Chinese. Where datatrove is no package of this Python, it is looked for in the folder $DANLU_PEERS:

    pip install --target FOLDER "datatrove[processing]" spacy jieba
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from danlu.ledger.counts import Counts
from danlu.text.cleaning.parts import BATCH, BATCH_CHARACTERS
from danlu.text.kernels import Batch
from danlu.text.ops.table import OPERATORS
from danlu.text.records import Document
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.statistics import CharactersStep, LinesStep, RepetitionStep, WordsStep

SAMPLE_BYTES = 3_000_000  # of each language: what the peer takes some ten seconds for
ROUNDS = 3
NINE = (CharactersStep(), LinesStep(), WordsStep())
PEER_LANGUAGES = {"en": "eng", "zh": "cmn_Hani"}
FLOORS = {("en", "nine"): 28, ("zh", "nine"): 45, ("en", "all"): 10, ("zh", "all"): 14}


def sample(folder: Path) -> list[Document]:
    """The first documents of every file of a language, each file as much."""
    files = sorted(folder.glob("*.jsonl.zst"))
    documents: list[Document] = []
    for file in files:
        size = 0
        for record in read_records(SourceSettings(path=str(file)), "document", Counts()):
            if size >= SAMPLE_BYTES // len(files):
                break
            assert isinstance(record, Document)
            documents.append(record)
            size += len(record.text.encode())
    return documents


def batches(documents: list[Document]) -> Iterator[Batch]:
    """As `clean` cuts them."""
    batch, size = Batch(), 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) == BATCH or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = Batch(), 0
    if batch:
        yield batch


def measure(documents: list[Document], steps: tuple[Any, ...]) -> None:
    for batch in batches(documents):
        for step in steps:
            OPERATORS[step.op].measure(batch, step)


def peer(language: str) -> Callable[[list[Document]], None]:
    sys.path.append(os.environ.get("DANLU_PEERS", ""))
    try:
        from datatrove.data import Document as Theirs
        from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    except ModuleNotFoundError:
        sys.exit(f"datatrove is missing; do as said here:\n\n{__doc__}")
    filters = [made(language=PEER_LANGUAGES[language]) for made in (GopherQualityFilter, GopherRepetitionFilter)]

    def run(documents: list[Document]) -> None:
        for place, document in enumerate(documents):
            for made in filters:
                made.filter(Theirs(text=document.text, id=str(place)))

    run([Document("The first call loads the model. 第一次调用会加载模型。")])
    return run


def rates(language: str, documents: list[Document]) -> dict[str, float]:
    """MB a CPU-second of each way, medians of rounds in which they take turns."""
    megabytes = sum(len(document.text.encode()) for document in documents) / 1e6
    ways: dict[str, Callable[[list[Document]], None]] = {
        "nine": lambda given: measure(given, NINE),
        "all": lambda given: measure(given, (*NINE, RepetitionStep())),
        "datatrove": peer(language),
    }
    ways["all"](documents[:1])
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.process_time()
            run(documents)
            seconds[way].append(time.process_time() - start)
    return {way: megabytes / statistics.median(times) for way, times in seconds.items()}


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data") / "pretrain"
    table = Table("language", "documents", "MB", "nine", "all", "datatrove", "all : datatrove")
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "rounds": ROUNDS, "rates": {}}
    for language in PEER_LANGUAGES:
        documents = sample(data / language)
        found = result["rates"][language] = rates(language, documents)
        size = sum(len(document.text.encode()) for document in documents) / 1e6
        shown = (f"{found[way]:.2f}" for way in ("nine", "all", "datatrove"))
        table.add_row(
            language, f"{len(documents):,}", f"{size:.1f}", *shown, f"{found['all'] / found['datatrove']:.0f} ×"
        )
    Console(width=110).print(table)
    result["missed"] = [f"{key}" for key, floor in FLOORS.items() if result["rates"][key[0]][key[1]] < floor]
    print("MB of UTF-8 a CPU-second, medians. Floors missed:", ", ".join(result["missed"]) or "none")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
