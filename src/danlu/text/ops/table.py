"""Every cleaning step by its name."""

from __future__ import annotations

from danlu.text.ops import (
    characters,
    decontaminate,
    exact_dedup,
    history,
    html,
    keywords,
    language,
    length,
    line_dedup,
    lines,
    links,
    markdown,
    near_dedup,
    neighbours,
    normalise,
    perplexity,
    ranges,
    repetition,
    simplified,
    smooth,
    tags,
    tokens,
    turns,
    unsuitable,
    width,
    words,
)
from danlu.text.ops.operator import Operator
from danlu.text.ops.privacy import redact

OPERATORS = {
    "normalise": Operator(change=normalise.normalise),
    "length": Operator(measure=length.measure, judge=length.judge),
    "language": Operator(measure=language.measure, judge=language.judge, version=2),
    "exact_dedup": Operator(measure=exact_dedup.measure, gather=exact_dedup.gather, judge=exact_dedup.judge, version=2),
    "html": Operator(change=html.html),
    "links": Operator(change=links.links),
    "markdown": Operator(change=markdown.markdown),
    "width": Operator(change=width.width),
    "simplified": Operator(change=simplified.simplified),
    "characters": Operator(measure=characters.measure, judge=ranges.judge),
    "lines": Operator(measure=lines.measure, judge=ranges.judge),
    "words": Operator(measure=words.measure, judge=ranges.judge),
    "repetition": Operator(measure=repetition.measure, judge=ranges.judge),
    "neighbours": Operator(measure=neighbours.measure, judge=ranges.judge, version=2),
    "keywords": Operator(measure=keywords.measure, judge=keywords.judge, version=2),
    "tokens": Operator(score=tokens.score, judge=ranges.judge),
    "perplexity": Operator(score=perplexity.score, judge=perplexity.judge),
    "privacy": Operator(change=redact.redact, measure=redact.measure),
    "near_dedup": Operator(measure=near_dedup.measure, gather=near_dedup.gather, judge=near_dedup.judge),
    "line_dedup": Operator(
        measure=line_dedup.measure,
        gather=line_dedup.gather,
        judge=line_dedup.judge,
        edit=line_dedup.edit,
        version=2,
    ),
    "decontaminate": Operator(gather=decontaminate.gather, judge=decontaminate.judge, edit=decontaminate.edit),
    "smooth": Operator(change=smooth.smooth, measure=smooth.measure),
    "history": Operator(change=history.cut, measure=history.measure),
    "history_tokens": Operator(score=history.score, gather=history.gather, edit=history.edit),
    "turns": Operator(change=turns.change, measure=turns.measure, judge=turns.judge),
    "tags": Operator(change=tags.change, measure=tags.measure),
    "tags_scored": Operator(score=tags.score, gather=tags.gather, edit=tags.edit),
    "unsuitable": Operator(change=unsuitable.change, measure=unsuitable.measure, judge=unsuitable.judge),
    "unsuitable_scored": Operator(
        score=unsuitable.score, gather=unsuitable.gather, judge=unsuitable.judge_scored, edit=unsuitable.edit
    ),
}
