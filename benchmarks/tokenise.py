"""Tokenising with the Qwen2.5 vocabulary: what pack does with a document, against tokenizers' encode_batch_fast.

    python benchmarks/tokenise.py [--data DATA] [--megabytes 10] [--rounds 3] [--out FILE.json]

Text of DATA/pretrain/{en,zh}, an even share of every file; DATA is $DANLU_DATA or ../shared/data. Every measurement is
a process of its own with one thread, the two sides in turn; both have loaded their tokenizer, and neither has seen the
text. tokenizers gets 500 texts at a time, which measures best. The tokens are compared. Then two processes of each side
at once, each with half of the text. Prints medians of MB of text a CPU-second and their ratios; for two processes what
each keeps of its speed a CPU-second (1 is perfect), and both together by the clock, which needs two idle cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SIDES = ("danlu", "tokenizers")
LANGUAGES = ("en", "zh")
TOGETHER = 500


def measure(side: str, language: str, data: Path, megabytes: float, part: int, parts: int) -> dict[str, Any]:
    """One side's speed on every `parts`-th text from number `part` on, and a hash of its tokens."""
    import numpy as np

    from danlu.ledger.counts import Counts
    from danlu.text.records import Document
    from danlu.text.settings import SourceSettings
    from danlu.tokens.encode import encode_document
    from danlu.tokens.tokenizer import Tokenizer
    from danlu.tokens.training_text import TrainingText

    source = SourceSettings(path=str(data / "pretrain" / language))
    texts = list(TrainingText([source], int(megabytes * 1e6), Counts()))[part::parts]
    tokenizer = Tokenizer.load(data / "tokenizers" / "qwen2.5")
    end = tokenizer.eos_id or 0
    if side == "danlu":
        documents = [Document(text, language, {}) for text in texts]
        tokenizer.encode_array("a" * 1_000_000)  # much text is to come, so that the fast encoder is there
        _ = tokenizer.token_bytes
        clock, cpu = time.perf_counter(), time.process_time()
        tokens = [encode_document(tokenizer, document, end).tokens for document in documents]
        taken = time.process_time() - cpu, time.perf_counter() - clock
        name = tokenizer.encoder_name
    else:
        backend, ids = tokenizer.backend, []
        backend.encode_batch_fast(["warm"], add_special_tokens=False)
        clock, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(texts), TOGETHER):
            found = backend.encode_batch_fast(texts[start : start + TOGETHER], add_special_tokens=False)
            ids += [[*encoding.ids, end] for encoding in found]
        taken = time.process_time() - cpu, time.perf_counter() - clock
        tokens, name = [np.array(some, np.uint32) for some in ids], "tokenizers"
    digest = hashlib.sha256(b"".join(some.tobytes() for some in tokens)).hexdigest()
    size = sum(len(text.encode()) for text in texts)
    return {
        "library": name,
        "bytes": size,
        "tokens": sum(map(len, tokens)),
        "sha256": digest,
        "mb_per_cpu_second": size / 1e6 / taken[0],
        "mb_per_second": size / 1e6 / taken[1],
    }


def processes(side: str, language: str, arguments: argparse.Namespace, count: int) -> list[dict[str, Any]]:
    """`count` processes at once, each with its share of the text."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--data", str(arguments.data), "--megabytes", str(arguments.megabytes)]
    running = [
        subprocess.Popen(
            [*command, "--measure", side, language, str(part), str(count)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for part in range(count)
    ]
    found = [json.loads(process.communicate()[0]) for process in running]
    if any(process.returncode for process in running):
        sys.exit("a measurement failed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DANLU_DATA", "../shared/data")))
    parser.add_argument("--megabytes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        side, language, part, parts = arguments.measure
        print(json.dumps(measure(side, language, arguments.data, arguments.megabytes, int(part), int(parts))))
        return
    table = Table("text", "side", "MB/CPU-s", "ratio", "two at once keep", "together MB/s", "same tokens")
    results: dict[str, Any] = {}
    for language in LANGUAGES:
        rounds = [{side: processes(side, language, arguments, 1)[0] for side in SIDES} for _ in range(arguments.rounds)]
        doubled = {side: processes(side, language, arguments, 2) for side in SIDES}
        same = len({found["sha256"] for one in rounds for found in one.values()}) == 1
        speed = {side: statistics.median(one[side]["mb_per_cpu_second"] for one in rounds) for side in SIDES}
        for side in SIDES:
            both = sum(found["mb_per_second"] for found in doubled[side])
            kept = statistics.mean(found["mb_per_cpu_second"] for found in doubled[side]) / speed[side]
            ratio = speed[side] / speed["tokenizers"]
            numbers = [f"{speed[side]:.1f}", f"{ratio:.1f}", f"{kept:.2f}", f"{both:.1f}"]
            table.add_row(language, rounds[0][side]["library"], *numbers, "yes" if same else "NO")
            results[f"{language} {side}"] = {
                "mb_per_cpu_second": speed[side],
                "ratio": ratio,
                "two_at_once_keep": kept,
                "two_at_once_mb_per_second": both,
                "same_tokens": same,
                **{key: rounds[0][side][key] for key in ("library", "bytes", "tokens")},
            }
    Console(width=120).print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if not all(found["same_tokens"] for found in results.values()):
        sys.exit("the tokens differ")


if __name__ == "__main__":
    main()
