"""A checkpoint, or an adapter with its base, as a plain Hugging Face folder that says what it was made from says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.model.settings import in_family
from danlu.recipe.prompts import PROMPT_TOKENS, prompts_for

if TYPE_CHECKING:
    import torch

    from danlu.evaluate.agreement import Agreement, Form
    from danlu.evaluate.reward_agreement import RewardAgreement
    from danlu.infer.voices import Voices
    from danlu.model.decoder import Decoder
    from danlu.model.gguf.file import GGUFForm

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
REWARD_TOKENS = 1024  # the answers of a pair differ behind their prompt only
_MORE_BITS = "write it in more bits (--dtype float32, --gguf bf16), or insist (--accept)"
_OWN_BITS = "leave --onto-original out: the adapter makes up for the error of the 4 bits under it; or insist (--accept)"


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
    gguf: GGUFForm | None = None,
    shard_bytes: float = 5e9,
    prompts: Path | None = None,
) -> None:
    """Writes weights in `dtype`, tokenizer, chat template and generation settings to the new folder `out`.

    An adapter, `model` itself or `adapter` over it, is merged into the weights; one that was trained over 4 bits into
    what those stand for, as it was trained, or with `onto_original` into the base's own. What was written is read again
    and compared with the model as it was, on what `prompts_for` gives; the score is in `out`/agreement.json. `family`
    is the form to write, if not the model's own; `template` names the chat template, if not the folder's. `gguf` writes
    one file for llama.cpp and Ollama in place of `dtype`'s shards of `shard_bytes`.
    Raises UserError for an unknown dtype or name, a form that cannot say what the model is, a folder that exists, no
    model at `model`, `onto_original` without an adapter, and, unless `accept`, for a result that answers otherwise or
    that others read as other tokens.
    """
    import torch

    from danlu.evaluate.agreement import GREEDY, agreement, require_same, write_agreement
    from danlu.evaluate.reward_agreement import reward_agreement
    from danlu.infer.voices import words_of
    from danlu.model.folder import load_decoder, save_decoder
    from danlu.recipe.export_gguf import opened_again, write_gguf_folder
    from danlu.recipe.same_ids import require_opened_alike
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer

    if dtype not in DTYPES:
        raise UserError(f"`{dtype}` is not a dtype", where="--dtype", do=f"use one of {', '.join(DTYPES)}")
    if out.exists():
        raise UserError("this folder exists", where=str(out), do="name a new one, or remove it first")
    source = _Source.of(resolve_checkpoint(model), adapter and resolve_checkpoint(adapter))
    if onto_original and not source.voices.adapters:
        do = "name one with --adapter, or leave this out"
        raise UserError("there is no adapter here to be merged", where="--onto-original", do=do)
    tokenizer = Tokenizer.load(words_of(source.words))
    if template is not None:
        tokenizer = Template(tokenizer, choice=template).tokenizer
    written = getattr(torch, DTYPES[dtype])
    decoder = source.merged(None if gguf else written, onto_original)
    if gguf is None:
        _require_finite(decoder, dtype)
    if family is not None:
        decoder.settings = in_family(decoder.settings, family)
    settings, rewards, made, reader = decoder.settings, decoder.reward is not None, dtype, None
    with atomic_folder(out) as folder:
        if gguf is None:
            save_decoder(decoder, folder, tokenizer=tokenizer, shard_bytes=shard_bytes)
            require_opened_alike(tokenizer, folder, accept)
        else:
            made, file = f"gguf {gguf}", write_gguf_folder(decoder, tokenizer, folder, gguf, out.name)
        del decoder
        made = source.what(onto_original) + made
        most = min(REWARD_TOKENS, settings.max_positions) if rewards else min(PROMPT_TOKENS, settings.max_positions - 1)
        asked = prompts_for(source.words, tokenizer, most, prompts, answers=rewards)
        found: Agreement | RewardAgreement
        if rewards:
            found = reward_agreement(source.opened(), load_decoder(folder, written, _device()), asked)
        elif gguf is None:
            found = agreement(source.form(), _in_engine(load_decoder(folder, written, _device())), asked)
        else:
            after, reader = opened_again(file, settings, tokenizer, PROMPT_TOKENS + GREEDY, accept)
            found = agreement(source.form(), after, asked)
        if not accept:
            do = _OWN_BITS if onto_original and source.voices.over else _MORE_BITS
            require_same(found, made, source=str(source.words), do=do)
        write_agreement(folder, found, source=str(source.words), made=made, reader=reader)
    read_by = f", read by {reader}" if reader else ""
    print(f"{source.words} → {out} ({made}{read_by}): {found.line()}")


@dataclass(frozen=True)
class _Source:
    """What is to be written: a model, or one adapter over its base."""

    voices: Voices

    @classmethod
    def of(cls, folder: Path, adapter: Path | None) -> _Source:
        from danlu.infer.voices import Voices
        from danlu.model.adapter_folder import is_adapter

        if adapter is not None and is_adapter(folder):
            do = "name the base before --adapter, or leave that out"
            raise UserError("an adapter already", where=str(folder), do=do)
        voices = Voices.of(folder, "source", {"adapter": adapter} if adapter else {})
        if adapter is not None:
            voices = replace(voices, first=0)
        return cls(voices)

    @property
    def words(self) -> Path:
        """The folder that was named, and that may hold the tokenizer."""
        return self.voices.adapters[0].folder if self.voices.adapters else self.voices.base

    def what(self, onto_original: bool) -> str:
        into = " into the original" if onto_original and self.voices.over else ""
        return f"adapter over {self.voices.over or 'full'} weights merged{into}, " if self.voices.adapters else ""

    def merged(self, dtype: torch.dtype | None, onto_original: bool) -> Decoder:
        """The decoder in `dtype`, its adapter in its weights; None keeps the folder's own, float32 after a merge."""
        import torch

        from danlu.model.adapt import merge
        from danlu.model.adapter_folder import Base, attach_stored
        from danlu.model.folder import stored_dtype
        from danlu.model.open import open_decoder

        base, adapters = self.voices.base, self.voices.adapters
        own = getattr(torch, stored_dtype(base))
        held = own if adapters else dtype or own
        decoder = open_decoder(base, held, quantisation=None if onto_original else self.voices.over)
        if adapters:
            attach_stored(decoder, adapters[0], Base.of(base))
            merge(decoder, dtype or torch.float32)
            decoder.to(dtype or torch.float32)
        return decoder

    def opened(self) -> Decoder:
        """The model as it was, computed as exactly as its device does it fast."""
        import torch

        device = _device()
        exact = torch.bfloat16 if device.type == "cuda" else torch.float32
        return self.voices.open(exact, device, self.voices.over)

    def form(self) -> Form:
        return _in_engine(self.opened(), adapters=len(self.voices.adapters), first=self.voices.first)


def _in_engine(decoder: Decoder, adapters: int = 0, first: int | None = None) -> Form:
    from danlu.evaluate.agreement import InEngine
    from danlu.infer.engine import BASE, Engine

    return InEngine(Engine(decoder, adapters=adapters, first=BASE if first is None else first))


def _require_finite(decoder: Decoder, dtype: str) -> None:
    """Raises UserError where weights became infinite, or were none: a prompt may not reach the row that they are in."""
    from danlu.model.stored import some

    parts = ((part.on_disk, part.read(part.parameter.detach())) for part in decoder.parts())
    lost = [name for name, value in parts if not value.isfinite().all()]
    if lost:
        do = "write bf16 or float32 (--dtype)" if dtype == "fp16" else "copy the model again from its origin"
        raise UserError(f"not finite in {dtype}: {some(lost)}", where=str(decoder.origin or "the model"), do=do)


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
