"""Every cleaning step by its name."""

from __future__ import annotations

from danlu.text.ops import (
    characters,
    exact_dedup,
    keywords,
    language,
    length,
    lines,
    normalise,
    ranges,
    repetition,
    tokens,
    words,
)
from danlu.text.ops.operator import Operator
from danlu.text.ops.privacy import redact

OPERATORS = {
    "normalise": Operator(change=normalise.normalise),
    "length": Operator(measure=length.measure, judge=length.judge),
    "language": Operator(measure=language.measure, judge=language.judge),
    "exact_dedup": Operator(measure=exact_dedup.measure, gather=exact_dedup.gather, judge=exact_dedup.judge),
    "characters": Operator(measure=characters.measure, judge=ranges.judge),
    "lines": Operator(measure=lines.measure, judge=ranges.judge),
    "words": Operator(measure=words.measure, judge=ranges.judge),
    "repetition": Operator(measure=repetition.measure, judge=ranges.judge),
    "keywords": Operator(measure=keywords.measure, judge=keywords.judge),
    "tokens": Operator(score=tokens.score, judge=ranges.judge),
    "privacy": Operator(change=redact.redact, measure=redact.measure),
}
