"""The text of HTML pages beside trafilatura: what is kept of the article, what else comes along, and how fast.

    python benchmarks/pages.py PAGES TEXTS [RESULT.json]

PAGES holds NAME.html, TEXTS the article of each as NAME.txt: for one, tests/data/html and tests/data/txt of
newspaper4k's source package. Compared are runs of 5 characters, blanks left out; the mean over the pages. Each is run
three times in turns; seconds are of the processor, their median. The peer: pip install trafilatura lxml_html_clean
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from danlu.text.formats.page import page
from danlu.text.formats.whole import decoded

RUN = 5  # characters
TURNS = 3


def runs(text: str) -> Counter[str]:
    text = "".join(text.replace("`", "").replace("|", "").split())
    return Counter(text[at : at + RUN] for at in range(max(1, len(text) - RUN + 1)))


def kept(extract: Callable[[str], str], pages: list[str], articles: list[Counter[str]]) -> tuple[float, float]:
    """Of the article, and of what was extracted: the share that is in the other."""
    recall, precision = [], []
    for source, article in zip(pages, articles, strict=True):
        found = runs(extract(source))
        common = (found & article).total()
        recall.append(common / article.total())
        precision.append(common / found.total())
    return statistics.mean(recall), statistics.mean(precision)


def seconds(extract: Callable[[str], str], pages: list[str]) -> float:
    start = time.process_time()
    for source in pages:
        extract(source)
    return time.process_time() - start


def main() -> None:
    try:
        import trafilatura
    except ImportError:
        sys.exit("the peer is missing: pip install trafilatura lxml_html_clean")
    texts = {file.stem: file for file in Path(sys.argv[2]).glob("*.txt")}
    files = [file for file in sorted(Path(sys.argv[1]).glob("*.html")) if file.stem in texts]
    pages = [decoded(file.read_bytes()) for file in files]
    articles = [runs(texts[file.stem].read_text("utf-8")) for file in files]
    ways: dict[str, Callable[[str], str]] = {
        "danlu": lambda source: page(source).text,
        "trafilatura": lambda source: trafilatura.extract(source, include_comments=False) or "",
        "trafilatura, fast": lambda source: trafilatura.extract(source, include_comments=False, fast=True) or "",
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            spent[name].append(seconds(way, pages))
    size = sum(len(source.encode()) for source in pages) / 1e6
    table = Table("", "of the article", "is article", "MB a CPU-second", title=f"{len(pages)} pages, {size:.1f} MB")
    result = {}
    for name, way in ways.items():
        recall, precision = kept(way, pages, articles)
        speed = size / statistics.median(spent[name])
        result[name] = {"recall": recall, "precision": precision, "mb_per_cpu_second": speed}
        table.add_row(name, f"{recall:.3f}", f"{precision:.3f}", f"{speed:.1f}")
    Console().print(table)
    if len(sys.argv) > 3:
        Path(sys.argv[3]).write_text(json.dumps({"pages": len(pages), "mb": size, "ways": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
