"""Lines and sentences of a record: how many, how long, how often the same."""

from __future__ import annotations

import numpy as np

from danlu.text.kernels import Class, Codes, Spans, codes_of, sums
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.seen import seen_before
from danlu.text.steps.statistics import LinesStep

_BULLETS = np.array([ord(character) for character in "•‣▶►▸◦◆◇■□▪▫●○★☆➢➤✓✔·∙⁃"], np.uint32)
_MARKDOWN_BULLETS = np.array([ord(character) for character in "-*+–—"], np.uint32)  # followed by a blank or nothing


def measure(records: list[Record], step: LinesStep) -> dict[str, Column]:
    """`count`, `average` and `longest` of lines that are not blank; shares as in the step's settings.

    The shares are those of Rae et al. 2021 (Gopher, arXiv:2112.11446, appendix A.1.1). Duplicates are weighed by their
    characters, as one of the two measures there, so that brackets alone on a line of code weigh next to nothing.
    """
    codes = codes_of(records)
    lines, longest = codes.lines, np.zeros(len(records), np.int64)
    filled = lines.counts > 0
    if filled.any():
        longest[filled] = np.maximum.reduceat(lines.lengths, lines.bounds[:-1][filled])
    return {
        "count": lines.counts,
        "average": _per(sums(lines.lengths, lines.bounds), lines.counts),
        "longest": longest,
        "duplicate_lines": _duplicates(codes, lines),
        "duplicate_sentences": _duplicates(codes, codes.sentences),
        "ellipses": _per(sums(_ellipses(codes), lines.bounds), lines.counts),
        "bullets": _per(sums(_bullets(codes), lines.bounds), lines.counts),
    }


def _duplicates(codes: Codes, spans: Spans) -> np.ndarray:
    again = seen_before(codes.hashes(spans), spans.bounds)
    return _per(sums(spans.lengths * again, spans.bounds), sums(spans.lengths, spans.bounds))


def _ellipses(codes: Codes) -> np.ndarray:
    ends = codes.lines.end
    last, before, first = (codes.points[np.maximum(ends - back, 0)] for back in (1, 2, 3))
    dots = (last == before) & (before == first) & np.isin(last, (ord("."), ord("。"))) & (codes.lines.lengths >= 3)
    return dots | np.isin(last, (ord("…"), ord("⋯")))


def _bullets(codes: Codes) -> np.ndarray:
    first, blank = codes.points[codes.lines.start], codes.classes[codes.lines.start + 1] <= Class.BLANK
    return np.isin(first, _BULLETS) | (np.isin(first, _MARKDOWN_BULLETS) & blank)


def _per(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)
