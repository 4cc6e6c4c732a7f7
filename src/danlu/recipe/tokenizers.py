"""`danlu tokenizer extend` and `danlu tokenizer inspect`: work on tokenizers that are there."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.settings import SourceSettings
from danlu.tokens.extend import Extension, extend
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.training_text import TrainingText

LEARNED_BYTES = 32_000_000


def extend_tokenizer(base: Path, out: Path, texts: list[Path], words: Path | None, size: int) -> Extension:
    """Writes the tokenizer of `base` with more tokens to the new folder `out`, its model too where it holds one.

    `words` is a file with one word a line, each to be one token; `size` tokens are learned from `texts`. Raises
    UserError for a folder that exists, and where there is nothing to add.
    """
    if out.exists():
        raise UserError("this folder exists", where=str(out), do="name a new one, or remove it first")
    if bool(texts) != bool(size):
        raise UserError("--with and --size belong together", do="say from which text, and how many tokens")
    tokenizer = Tokenizer.load(base)
    listed = [line for line in words.read_text("utf-8").splitlines() if line.strip()] if words else []
    sources = [SourceSettings(path=str(path)) for path in texts]
    learned = list(TrainingText(sources, LEARNED_BYTES, Counts())) if sources else []
    found = extend(tokenizer, learned, size, listed)
    if (base / "config.json").is_file():
        _grow_model(base, out, found)
    else:
        found.tokenizer.save(out)
    _tell(tokenizer, found, learned, out)
    return found


def _grow_model(base: Path, out: Path, found: Extension) -> None:
    import torch

    from danlu.model.folder import load_decoder, save_decoder
    from danlu.model.vocabulary import grow_vocabulary

    config = json.loads((base / "config.json").read_text("utf-8"))
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    decoder = grow_vocabulary(load_decoder(base, dtype=dtype), found.pieces)
    save_decoder(decoder, out, found.tokenizer, stop_ids=found.tokenizer.generation_stops)


def _tell(base: Tokenizer, found: Extension, texts: list[str], out: Path) -> None:
    console = Console(highlight=False)
    for word, reason in found.left_out.items():
        console.print(f"left out: {word!r} ({reason})", style="yellow", markup=False)
    console.print(f"{len(found.pieces):,} tokens added: {base.vocab_size:,} → {found.tokenizer.vocab_size:,}")
    if texts:
        old, new = (sum(len(one.encode_array(text)) for text in texts) for one in (base, found.tokenizer))
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        console.print(f"the text: {size / old:.2f} → {size / new:.2f} bytes a token ({1 - new / old:.1%} fewer tokens)")
    console.print(f"→ {out}")
