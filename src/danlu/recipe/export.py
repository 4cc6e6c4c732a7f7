"""A checkpoint as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.model.settings import in_family

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def export_model(model: Path, out: Path, dtype: str, *, family: str | None = None, template: str | None = None) -> None:
    """Writes weights in `dtype`, tokenizer, chat template and generation settings to the new folder `out`.

    `family` is the form to write, if not the model's own; `template` names the chat template, if not the folder's.
    Raises UserError for an unknown dtype or name, a form that cannot say what the model is, a folder that exists, or no
    model at `model`.
    """
    import torch

    from danlu.model.folder import load_decoder, save_decoder
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer

    if dtype not in DTYPES:
        raise UserError(f"`{dtype}` is not a dtype", where="--dtype", do=f"use one of {', '.join(DTYPES)}")
    if out.exists():
        raise UserError("this folder exists", where=str(out), do="name a new one, or remove it first")
    source = resolve_checkpoint(model)
    tokenizer = Tokenizer.load(source)
    if template is not None:
        tokenizer = Template(tokenizer, choice=template).tokenizer
    decoder = load_decoder(source, dtype=getattr(torch, DTYPES[dtype]))
    if family is not None:
        decoder.settings = in_family(decoder.settings, family)
    save_decoder(decoder, out, tokenizer=tokenizer)
    print(f"{source} → {out} ({dtype})")
