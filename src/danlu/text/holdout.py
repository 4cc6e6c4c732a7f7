"""What is held out, from the content alone, so that every stage holds out the same."""

from __future__ import annotations


def is_held_out(record_hash: int, share: float) -> bool:
    """Whether a record with this content hash (64 bits, uniform) is held out when `share` (0 to 1) of all is.

    Nothing but the content decides, and what is held out at one share is held out at every larger one.
    """
    return record_hash < share * 2**64
