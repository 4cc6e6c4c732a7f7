"""Numbers of records, kept beside their tokens, as columns of documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from danlu.ledger.errors import UserError
from danlu.tokens.shards import TokenSet


def margins(sets: Sequence[TokenSet], stated: str) -> list[np.ndarray]:
    """float32 [documents] of each set: the column `stated`, or the difference of two, `a - b`; 0 where a row lacks it.

    Raises UserError where no row of any set has it.
    """
    names = [name.strip() for name in stated.split(" - ", 1)]
    found = []
    for token_set in sets:
        columns = [_column(token_set, name) for name in names]
        found.append(columns[0] - columns[1] if len(columns) == 2 else columns[0])
    if all(np.isnan(values).all() for values in found):
        known = sorted({name for token_set in sets for name in token_set.manifest["scores"]})
        raise UserError(
            f"no row has a number for the margin `{stated}`",
            where=", ".join(str(token_set.folder) for token_set in sets),
            do=f"name a column of the rows, or the difference of two (`a - b`); they have {', '.join(known) or 'none'}",
        )
    return [np.nan_to_num(values) for values in found]


def _column(token_set: TokenSet, name: str) -> np.ndarray:
    """float32 [documents], NaN where a record has no such number."""
    names = token_set.manifest["scores"]
    if name not in names:
        return np.full(token_set.documents, np.nan, np.float32)
    parts = [token_set.shard(number).scores for number in range(len(token_set.shards))]
    return np.concatenate([part[:, names.index(name)] for part in parts if part is not None])
