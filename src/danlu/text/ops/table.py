"""Every cleaning step by its name."""

from __future__ import annotations

from danlu.text.ops import exact_dedup, language, length, normalise
from danlu.text.ops.operator import Operator

OPERATORS = {
    "normalise": Operator(change=normalise.normalise),
    "length": Operator(measure=length.measure, judge=length.judge),
    "language": Operator(measure=language.measure, judge=language.judge),
    "exact_dedup": Operator(measure=exact_dedup.measure, judge=exact_dedup.judge),
}
