"""What the tokens of a vocabulary spell, kept beside a token set so that it can be read without its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from safetensors.numpy import save

from danlu.ledger.files import atomic_file
from danlu.tokens.characters import TokenBytes
from danlu.tokens.columns import map_safetensors

if TYPE_CHECKING:
    from danlu.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Spelling:
    """The bytes of every token, and which tokens are markup: enough to cut texts and to measure them in bytes."""

    token_bytes: TokenBytes
    special: np.ndarray
    """bool [V]: tokens that are markup and spell no text."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """The spelling of a tokenizer's whole vocabulary."""
        special = np.zeros(tokenizer.vocab_size, bool)
        special[list(tokenizer.special_ids)] = True
        return cls(tokenizer.token_bytes, special)

    def __len__(self) -> int:
        return len(self.special)

    @cached_property
    def text_bytes(self) -> np.ndarray:
        """int32 [V]: UTF-8 bytes of text that each token spells, 0 for markup."""
        return np.where(self.special, 0, self.token_bytes.lengths).astype(np.int32)

    def write(self, path: Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        arrays: dict[str, np.ndarray] = {
            "blob": np.ascontiguousarray(self.token_bytes.blob),
            "offsets": self.token_bytes.offsets.astype(np.int64),
            "special": self.special.astype(np.uint8),
        }
        with atomic_file(path, "wb") as handle:
            handle.write(save(arrays))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises UserError, naming the file, when it is missing or damaged."""
        arrays = map_safetensors(path)
        return cls(TokenBytes(arrays["blob"], arrays["offsets"]), arrays["special"].astype(bool))
