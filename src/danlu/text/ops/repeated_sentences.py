"""Sentences that a document, or a message, says again."""

from __future__ import annotations

import numpy as np

from danlu.text.ops.contents import text_of, with_text
from danlu.text.ops.cutting import without
from danlu.text.ops.units import units
from danlu.text.records import Document, Record
from danlu.text.steps.duplicates import LineDedupStep
from danlu.text.steps.passages import RepeatedSentencesStep


def repeated_sentences(record: Record, step: RepeatedSentencesStep) -> Record:
    """The record with every sentence once in each text, where it stands first."""
    counted = LineDedupStep(unit="sentence", shortest=step.shortest)
    return with_text(record, lambda text: _once(text, counted))


def _once(text: str, counted: LineDedupStep) -> str:
    document = Document(text)
    found = units([document], counted)
    first = np.zeros(len(found.hashes), bool)
    first[np.unique(found.hashes, return_index=True)[1]] = True
    if first.all():
        return text
    starts, ends = found.spans.start[~first].tolist(), found.spans.end[~first].tolist()
    return text_of(without(document, list(zip(starts, ends, strict=True))))
