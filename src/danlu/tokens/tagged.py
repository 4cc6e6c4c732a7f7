"""The part of a stream whose records have a tag: what a loss by tag is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from danlu.ledger.errors import UserError
from danlu.tokens.order import Place, merged
from danlu.tokens.shards import DOCUMENTS
from danlu.tokens.stream import Stream


def tagged(stream: Stream, names: Sequence[str]) -> dict[str, Stream]:
    """{"region=四川": the examples whose record has this tag}, for all values of the tags `names` that are there.

    Raises UserError for windows, in which records with other tags lie side by side.
    """
    if names and stream.unit == "window":
        raise UserError(
            f"the loss by {names[0]} needs records that stand by themselves", do="set `pack: best_fit` or `none`"
        )
    places: dict[str, set[Place]] = {}
    for source, token_set in enumerate(stream.sets):
        labels = [
            [label for label in some if label.partition("=")[0] in names] for some in token_set.manifest["labels"]
        ]
        for shard in range(len(token_set.shards)):
            column = token_set.shard(shard).label
            numbers = [] if column is None else column[:: DOCUMENTS[stream.unit]].tolist()
            for index, number in enumerate(numbers):
                for label in labels[number] if number >= 0 else ():
                    places.setdefault(label, set()).add(Place(source, shard, index))
    return {label: _only(stream, places[label]) for label in sorted(places)}


def _only(stream: Stream, wanted: set[Place]) -> Stream:
    """The stream with every position skipped that has none of these examples."""
    made, skipped, at = copy(stream), list(stream.skip), 0
    for position, _ in stream.find(wanted, stream.total):
        if at < position:
            skipped.append((at, position))
        at = position + 1
    made.skip, made.total = merged(skipped), at
    return made
