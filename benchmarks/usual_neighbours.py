"""Writes the table of the step `neighbours`: which letters and Chinese characters usually stand next to each other.

    python benchmarks/usual_neighbours.py FOLDER src/danlu/text/lists/neighbours.txt

FOLDER holds pretrain/{zh,en} and sft as jsonl.zst. Each source counts the same, so that poems and laws count beside
articles; traditional characters count as their simplified ones.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from danlu.ledger.counts import Counts
from danlu.text.ops.contents import text_of
from danlu.text.ops.neighbours import folded
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records

CHINESE = [
    "pretrain/zh/articles-00",
    "pretrain/zh/law-00",
    "pretrain/zh/textbooks-00",
    "pretrain/zh/docs-00",
    "pretrain/zh/classical-00",
    "pretrain/zh/poetry-00",
    "pretrain/zh/poetry-01",
    "pretrain/zh/classical-01",
    "sft/smile_zh",
    "sft/alpaca_zh",
    "sft/moss_chat",
]
ENGLISH = ["pretrain/en/books-00", "pretrain/en/docs-00", "pretrain/en/specs-00", "pretrain/en/articles-00"]
SAMPLE = 3_000_000  # characters of a source
LATIN_PAIRS, HAN_PAIRS = 300, 24_000


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    latin = usual(folder, ENGLISH, ("a", "z"), LATIN_PAIRS)
    han = usual(folder, CHINESE, ("一", "鿿"), HAN_PAIRS)
    followers: dict[str, str] = {}
    for first, second in sorted([*latin, *han]):
        followers[first] = followers.get(first, "") + second
    lines = [f"{first} {after}\n" for first, after in followers.items()]
    out.write_text("".join(lines), "utf-8")


def usual(folder: Path, names: list[str], block: tuple[str, str], most: int) -> list[str]:
    total: Counter[int] = Counter()
    for name in names:
        points = folded(sample(folder / f"{name}.jsonl.zst"))
        inside = (points >= ord(block[0])) & (points <= ord(block[1]))
        at = np.flatnonzero(inside[1:] & inside[:-1])
        pairs, counts = np.unique(points[at].astype(np.int64) << 16 | points[at + 1], return_counts=True)
        total.update(dict(zip(pairs.tolist(), (counts / len(at)).tolist(), strict=True)))  # type: ignore[arg-type]
    return [chr(pair >> 16) + chr(pair & 0xFFFF) for pair, _ in total.most_common(most)]


def sample(path: Path) -> np.ndarray:
    texts, size = [], 0
    kind = "document" if "pretrain" in path.parts else "conversation"
    for record in read_records(SourceSettings(path=str(path)), kind, Counts()):
        texts.append(text_of(record).lower())
        size += len(texts[-1])
        if size > SAMPLE:
            break
    return np.frombuffer("\n".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)


if __name__ == "__main__":
    main()
