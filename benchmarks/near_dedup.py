"""Near-duplicates in real zh and en text with planted copies: danlu's `clean` with its one step beside datasketch.

    python benchmarks/near_dedup.py [DATA] [RESULT.json]

Documents of DATA/pretrain, and for every fifth a copy in which some words are other ones. danlu's time is that of all
of `clean`, from the JSON lines to the kept and dropped files: reading, MinHash, reading candidates again, comparing
them n-gram by n-gram, writing; the step alone is that less a `clean` without steps. The peer's is that of n-grams,
MinHash and MinHashLSH over texts in memory, where a text goes when a query finds an earlier one; it compares nothing.
Both take n-grams of 5 words, a Chinese character being a word, 128 permutations and the threshold 0.8. Found are copies
whose exact similarity with their original reaches it; false drops are texts whose similarity with all that they were
found by is below it. Where datasketch is no package of this Python, it is looked for in the folder $DANLU_PEERS:

    pip install --target FOLDER datasketch
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.text.clean import clean
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings, SourceSettings
from danlu.text.source import read_records

SAMPLE_BYTES = 20_000_000  # of each language
ROUNDS = 3
NGRAM, THRESHOLD, PERMUTATIONS = 5, 0.8, 128
FLOORS = {"MB a CPU-second": 12.0, "times datasketch": 5.0}
HAN = r"\u3005\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U000323af"
WORD = re.compile(rf"[{HAN}]|(?:[^\W_{HAN}]|[\u0300-\u036f]|(?<=[^\W\d_{HAN}])['’](?=[^\W\d_{HAN}]))+")


@dataclass
class Corpus:
    """Texts, and which of them is a copy of which."""

    texts: list[str]
    original: dict[int, int]
    known: dict[int, frozenset[tuple[str, ...]]] = field(default_factory=dict)

    def grams(self, place: int) -> frozenset[tuple[str, ...]]:
        if place not in self.known:
            self.known[place] = frozenset(shingles(self.texts[place]))
        return self.known[place]

    def similarity(self, one: int, other: int) -> float:
        left, right = self.grams(one), self.grams(other)
        return len(left & right) / max(1, len(left | right))


def shingles(text: str) -> list[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return list(zip(*(words[start:] for start in range(NGRAM)), strict=False))


def sample(folder: Path) -> list[str]:
    """The first documents of every file of a language, each file as much."""
    files = sorted(folder.glob("*.jsonl.zst"))
    texts: list[str] = []
    for file in files:
        size = 0
        for record in read_records(SourceSettings(path=str(file)), "document", Counts()):
            if size >= SAMPLE_BYTES // len(files):
                break
            texts.append(record.text)  # type: ignore[union-attr]  # they are documents
            size += len(texts[-1].encode())
    return texts


def corpus(folder: Path) -> Corpus:
    """The sample with copies, of which 1 to 6 words in 100 are replaced, all in a random order."""
    draw = random.Random(0)
    texts = sample(folder)
    made: list[tuple[str, int]] = [(text, -1) for text in texts]
    for place in range(0, len(texts), 5):
        words = list(WORD.finditer(texts[place]))
        if len(words) < 50:
            continue
        changed = sorted(draw.sample(words, round(draw.choice((0.01, 0.02, 0.04, 0.06)) * len(words)) or 1), key=at)
        pieces, start = [], 0
        for word in changed:
            pieces += [texts[place][start : word.start()], draw.choice(words)[0]]
            start = word.end()
        made.append(("".join([*pieces, texts[place][start:]]), place))
    order = draw.sample(range(len(made)), len(made))
    new_place = {old: new for new, old in enumerate(order)}
    original = {new_place[old]: new_place[made[old][1]] for old in order if made[old][1] >= 0}
    return Corpus([made[old][0] for old in order], original)


def at(word: re.Match[str]) -> int:
    return word.start()


def danlu(given: Corpus) -> tuple[float, dict[int, list[int]]]:
    """CPU-seconds, and for each text that goes, what it was found by."""
    step = {"op": "near_dedup", "threshold": THRESHOLD, "ngram": NGRAM, "permutations": PERMUTATIONS}
    seconds, dropped = cleaned(given, [step])
    return seconds, {place(row["meta"]["origin"]): [place(row["value"]["twin"])] for row in dropped}


def no_step(given: Corpus) -> tuple[float, dict[int, list[int]]]:
    return cleaned(given, [])[0], {}


def cleaned(given: Corpus, steps: list[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    with TemporaryDirectory() as folder:
        file, out = Path(folder) / "corpus.jsonl", Path(folder) / "out"
        file.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in given.texts), "utf-8")
        settings = check(CleanSettings, {"sources": [{"path": str(file)}], "steps": steps, "workers": 1})
        start = time.process_time()
        clean(settings, out)
        return time.process_time() - start, [row.fields for row in read_rows(out / "dropped")]


def place(origin: str) -> int:
    return int(origin.rpartition(":")[2]) - 1


def datasketch() -> Callable[[Corpus], tuple[float, dict[int, list[int]]]]:
    sys.path.append(os.environ.get("DANLU_PEERS", ""))
    try:
        from datasketch import MinHash, MinHashLSH
    except ModuleNotFoundError:
        sys.exit(f"datasketch is missing; do as said here:\n\n{__doc__}")

    def run(given: Corpus) -> tuple[float, dict[int, list[int]]]:
        gone: dict[int, list[int]] = {}
        start = time.process_time()
        index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
        for number, text in enumerate(given.texts):
            found = [" ".join(words).encode() for words in shingles(text)]
            if not found:
                continue
            sketch = MinHash(PERMUTATIONS)
            sketch.update_batch(found)
            if twins := index.query(sketch):
                gone[number] = twins
            else:
                index.insert(number, sketch)
        return time.process_time() - start, gone

    return run


def quality(given: Corpus, gone: dict[int, list[int]]) -> dict[str, int]:
    """How many copies reach the threshold, how many of them are found, and what goes without reason."""
    near = [copy for copy, first in given.original.items() if given.similarity(copy, first) >= THRESHOLD]
    pairs = [(copy, given.original[copy]) for copy in near]
    false = [n for n, twins in gone.items() if max(given.similarity(n, twin) for twin in twins) < THRESHOLD]
    return {"near": len(near), "found": sum(a in gone or b in gone for a, b in pairs), "false": len(false)}


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data") / "pretrain"
    ways = {"danlu": danlu, "no step": no_step, "datasketch": datasketch()}
    shown = Table("language", "texts", "MB", "way", "MB a CPU-second", "copies found", "false drops")
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "rounds": ROUNDS, "languages": {}}
    missed = []
    for language in ("en", "zh"):
        given = corpus(data / language)
        megabytes = sum(len(text.encode()) for text in given.texts) / 1e6
        danlu(Corpus(given.texts[:10], {}))  # the first call builds tables
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        entry: dict[str, Any] = {"texts": len(given.texts), "megabytes": megabytes}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                taken, gone = run(given)
                seconds[way].append(taken)
                entry[way] = quality(given, gone)
        spent = {way: statistics.median(times) for way, times in seconds.items()}
        spent["the step alone"] = spent["danlu"] - spent.pop("no step")
        entry["the step alone"] = dict(entry["danlu"])
        for way in ("danlu", "the step alone", "datasketch"):
            entry[way]["rate"] = megabytes / spent[way]
            found = f"{entry[way]['found']} of {entry[way]['near']}"
            row = (f"{len(given.texts):,}", f"{megabytes:.1f}", way, f"{entry[way]['rate']:.1f}", found)
            shown.add_row(language, *row, str(entry[way]["false"]))
        entry["ratio"] = entry["danlu"]["rate"] / entry["datasketch"]["rate"]
        reached = zip(FLOORS.items(), (entry["danlu"]["rate"], entry["ratio"]), strict=True)
        missed += [f"{language} {name} {value:.1f}" for (name, floor), value in reached if value < floor]
        missed += [f"{language} recall"] * (entry["danlu"]["found"] < entry["datasketch"]["found"])
        missed += [f"{language} false drops"] * (entry["danlu"]["false"] > 0)
        result["languages"][language] = entry
    Console(width=110).print(shown)
    print("ratios:", ", ".join(f"{name} {entry['ratio']:.1f} ×" for name, entry in result["languages"].items()))
    print("medians; floors missed:", ", ".join(missed) or "none")
    result["missed"] = missed
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
