"""One encoded text: its tokens, their loss weights and the pieces that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tokens of one document or conversation.

    `weights` are the tokens' weights as targets. Pieces (headers, contents, stop tokens, what lies between) cover the
    tokens of a conversation from the first on; a plain document has none.
    """

    tokens: np.ndarray
    """uint32 [n]."""
    weights: np.ndarray
    """float32 [n]."""
    piece_starts: np.ndarray
    """int32 [p], rising from 0."""
    piece_kinds: np.ndarray
    """uint8 [p]: 0 header, 1 content, 2 stop, 3 between."""
    piece_roles: np.ndarray
    """uint8 [p]: 0 none, 1 system, 2 user, 3 assistant, 4 tool."""
    piece_turns: np.ndarray
    """int16 [p]: number of the message."""
    text_bytes: int
    """UTF-8 bytes of the content that is in the loss."""
