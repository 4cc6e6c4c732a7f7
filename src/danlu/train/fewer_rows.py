"""What happens when a micro-batch does not fit: the step is repeated with a smaller one and the same global batch."""

from __future__ import annotations

import sys

from danlu.ledger.errors import UserError
from danlu.train.parallel import World
from danlu.train.step import DoesNotFit


class StartAgain(UserError):
    """The run goes on from its last checkpoint once it is started again, with `rows` rows a micro-batch."""

    def __init__(self, what: str, rows: int, *, where: str, do: str) -> None:
        super().__init__(what, where=where, do=do)
        self.rows = rows


def fewer_rows(error: DoesNotFit, rows: int, least: int, place: str, world: World) -> int:
    """The rows of a micro-batch with which `place`, such as "step 5", is repeated, half of what they were; told on
    standard error.

    Raises UserError where `rows` is the `least` already, and StartAgain where the other processes wait for this one
    inside of the network.
    """
    fewer = max(least, rows // 2)
    if not error.agreed and rows > least:
        raise StartAgain(
            f"out of memory in {place} with {rows} rows a micro-batch, in the midst of an exchange of weights or "
            "gradients that the other processes wait for, so that it cannot be repeated here",
            fewer,
            where=f"process {world.rank} of {world.size}",
            do=f"go on from the last checkpoint with train.rows={fewer}; with sharding none or optimizer a step of "
            "training is repeated",
        ) from error
    if rows <= least:
        raise UserError(
            f"not even a micro-batch of {'1 row' if rows == 1 else f'{rows} rows'} fits into the memory of the GPU",
            where=place,
            do="set train.recompute=true, data.length lower, or another train.tune",
        ) from error
    if world.main:
        print(
            f"out of memory in {place} with {rows} rows a micro-batch: going on with {fewer}, the same global batch",
            file=sys.stderr,
            flush=True,
        )
    return fewer
