"""What cleaning asks of a tokenizer: how many tokens texts have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from danlu.tokens.tokenizer import Tokenizer


def token_counter(tokenizer: str) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to how many tokens each has, int64. Raises UserError for a folder without a tokenizer."""
    loaded = Tokenizer.load(Path(tokenizer))
    return lambda texts: np.array([len(loaded.encode_array(text)) for text in texts], np.int64)
