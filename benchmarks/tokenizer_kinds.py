"""Training a 64K vocabulary on 20 MB of zh and 20 MB of en text, both kinds, beside Qwen2.5's ready one.

    python benchmarks/tokenizer_kinds.py [--data DATA] [--megabytes 40] [--entries 64000] [--out FILE.json]

Text of DATA/pretrain/{zh,en}, an even share of every file, without the documents (1 in 20, by what they say) on which
bytes per token are measured. Each kind is trained in a process of its own on one thread; memory is the peak of that
whole process. Qwen's vocabulary was learned from other text and has 2.4 times as many entries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

LANGUAGES = ("zh", "en")
KINDS = ("byte_bpe", "sentencepiece", "qwen2.5")
HELD_OUT = 0.05


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains or loads the tokenizer and measures it on the held-out documents."""
    from danlu.ledger.counts import Counts
    from danlu.text.holdout import is_held_out
    from danlu.text.records import Document, content_hash
    from danlu.text.settings import SourceSettings
    from danlu.tokens.settings import TokenizerTrainSettings
    from danlu.tokens.tokenizer import Tokenizer
    from danlu.tokens.train import train_tokenizer
    from danlu.tokens.training_text import TrainingText

    held_out: dict[str, list[str]] = {language: [] for language in LANGUAGES}

    def texts() -> Iterator[str]:
        for language in LANGUAGES:
            source = SourceSettings(path=str(arguments.data / "pretrain" / language))
            most = int(arguments.megabytes * 1e6 / len(LANGUAGES) / (1 - HELD_OUT))
            for text in TrainingText([source], most, Counts()):
                if is_held_out(content_hash(Document(text, "", {})), HELD_OUT):
                    held_out[language].append(text)
                else:
                    yield text

    clock, cpu = time.perf_counter(), time.process_time()
    if kind == "qwen2.5":
        tokenizer = Tokenizer.load(arguments.data / "tokenizers" / kind)
        for _ in texts():
            pass
        found: dict[str, Any] = {}
    else:
        asked = TokenizerTrainSettings.model_validate(
            {"kind": kind, "vocab_size": arguments.entries, "max_bytes": int(2e6 * arguments.megabytes)}
        )
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = train_tokenizer(asked, texts(), Path(folder) / "tokenizer")
        found = {
            "seconds": time.perf_counter() - clock,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    for language, some in held_out.items():
        size = sum(len(text.encode()) for text in some)
        found[language] = size / sum(len(tokenizer.fast.encode(text)) for text in some)
        found[f"{language}_bytes"] = size
    return found | {"entries": tokenizer.vocab_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DANLU_DATA", "../shared/data")))
    parser.add_argument("--megabytes", type=float, default=40.0)
    parser.add_argument("--entries", type=int, default=64_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    table = Table("tokenizer", "entries", "zh bytes/token", "en bytes/token", "CPU seconds", "peak MB")
    results = {}
    for kind in KINDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", kind]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        found = results[kind] = json.loads(run.stdout)
        cost = [f"{found[key]:,.0f}" if key in found else "–" for key in ("cpu_seconds", "peak_mb")]
        table.add_row(kind, f"{found['entries']:,}", f"{found['zh']:.3f}", f"{found['en']:.3f}", *cost)
    Console(width=110).print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
