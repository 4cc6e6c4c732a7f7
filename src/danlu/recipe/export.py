"""A checkpoint, or an adapter with its base, as a plain Hugging Face folder that says what it was made from says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.config import check
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.model.settings import in_family
from danlu.recipe.job import TrainingJob, held_out_streams

if TYPE_CHECKING:
    from danlu.infer.voices import Voices
    from danlu.model.open import Quantisation
    from danlu.tokens.tokenizer import Tokenizer

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PROMPTS, PROMPT_TOKENS = 16, 64


def export_model(
    model: Path,
    out: Path,
    dtype: str,
    *,
    family: str | None = None,
    template: str | None = None,
    adapter: Path | None = None,
    accept: bool = False,
    onto_original: bool = False,
) -> None:
    """Writes weights in `dtype`, tokenizer, chat template and generation settings to the new folder `out`.

    An adapter, `model` itself or `adapter` over it, is merged into the weights; one that was trained over 4 bits into
    what those stand for, as it was trained, or with `onto_original` into the base's own. What was written is read again
    and compared with the model as it was, on held-out texts of its training or else on some of our own; the score is in
    `out`/agreement.json. `family` is the form to write, if not the model's own; `template` names the chat template, if
    not the folder's.
    Raises UserError for an unknown dtype or name, a form that cannot say what the model is, a folder that exists, no
    model at `model`, and, unless `accept`, for a result that answers otherwise.
    """
    import torch

    from danlu.infer.voices import words_of
    from danlu.model.adapt import merge
    from danlu.model.adapter_folder import Base, attach_stored
    from danlu.model.folder import save_decoder, stored_dtype
    from danlu.model.open import open_decoder
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer

    if dtype not in DTYPES:
        raise UserError(f"`{dtype}` is not a dtype", where="--dtype", do=f"use one of {', '.join(DTYPES)}")
    if out.exists():
        raise UserError("this folder exists", where=str(out), do="name a new one, or remove it first")
    voices = _source(resolve_checkpoint(model), adapter and resolve_checkpoint(adapter))
    words = voices.adapters[0].folder if voices.adapters else voices.base
    tokenizer = Tokenizer.load(words_of(words))
    if template is not None:
        tokenizer = Template(tokenizer, choice=template).tokenizer
    written = getattr(torch, DTYPES[dtype])
    over: Quantisation | None = "nf4" if voices.adapters and voices.adapters[0].shape.over == "nf4" else None
    held = getattr(torch, stored_dtype(voices.base)) if voices.adapters else written
    decoder = open_decoder(voices.base, held, quantisation=None if onto_original else over)
    if voices.adapters:
        attach_stored(decoder, voices.adapters[0], Base.of(voices.base))
        merge(decoder, written)
        decoder.to(written)
    if family is not None:
        decoder.settings = in_family(decoder.settings, family)
    with atomic_folder(out) as folder:
        save_decoder(decoder, folder, tokenizer=tokenizer)
        rewards = decoder.reward is not None
        del decoder
        said = "" if rewards else ": " + _compared(voices, over, words, folder, dtype, tokenizer, accept)
    print(f"{words} → {out} ({dtype}){said}")


def _source(folder: Path, adapter: Path | None) -> Voices:
    """What is to be written: a model, or one adapter over its base."""
    from danlu.infer.voices import Voices
    from danlu.model.adapter_folder import is_adapter

    if adapter is None:
        return Voices.of(folder, "source", {})
    if is_adapter(folder):
        raise UserError("an adapter already", where=str(folder), do="name the base before --adapter, or leave that out")
    return replace(Voices.of(folder, "source", {"adapter": adapter}), first=0)


def _compared(
    voices: Voices, over: Quantisation | None, words: Path, made: Path, dtype: str, tokenizer: Tokenizer, accept: bool
) -> str:
    """Reads back what was written, writes its agreement with the source beside it, and gives that in a line."""
    import torch

    from danlu.evaluate.agreement import InEngine, agreement, write_agreement
    from danlu.infer.engine import Engine
    from danlu.model.folder import load_decoder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exact = torch.bfloat16 if device.type == "cuda" else torch.float32
    before = Engine(voices.open(exact, device, over), adapters=len(voices.adapters), first=voices.first)
    after = Engine(load_decoder(made, getattr(torch, DTYPES[dtype]), device))
    window = min(PROMPT_TOKENS, before.window - 1)
    prompts = [ids[:window] for ids in held_out_prompts(words, tokenizer)]
    found = agreement(InEngine(before), InEngine(after), prompts)
    kind = f"adapter over {over or 'full'} weights merged, {dtype}" if voices.adapters else dtype
    write_agreement(made, found, source=str(words), made=kind, told=accept)
    return found.line()


def held_out_prompts(folder: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """Texts that a checkpoint's training held out, as token ids; texts of our own where they are not there any more."""
    from danlu.evaluate.agreement import prompts_of
    from danlu.train.checkpoint import TRAINER, read_trainer

    if (folder / TRAINER).is_file():
        try:
            job = check(TrainingJob, read_trainer(folder)["config"])
            streams = list(held_out_streams(job).values())
        except (UserError, OSError):  # of a run from Python, or its data are elsewhere now
            streams = []
        taken = [
            one for stream in streams for one in stream.examples(0, min(stream.total, PROMPTS // len(streams) + 1))
        ]
        found = [one.documents[0].encoded.tokens.tolist() for one in taken if one.documents]
        return [*(ids for ids in found if len(ids) > 1), *prompts_of(tokenizer)][:PROMPTS]
    return prompts_of(tokenizer)
