"""The commands `danlu export` and `danlu forms`, and how commands are told a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def _model(path: Path) -> Path:
    """The path, once it is known to hold a model: libraries that take seconds to load are not loaded for nothing."""
    from danlu.ledger.checkpoints import resolve_checkpoint

    resolve_checkpoint(path)
    return path


MODEL = typer.Argument(metavar="MODEL", help="A Hugging Face or adapter folder, a stage or a run.", callback=_model)
ModelPath = Annotated[Path, MODEL]


def export(
    model: ModelPath,
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bf16 or fp16; bf16 when left out.")] = None,
    gguf: Annotated[
        Literal["f16", "bf16", "q8_0"] | None,
        typer.Option(help="Write one GGUF file, for llama.cpp and Ollama, in place of a Hugging Face folder."),
    ] = None,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="The most that one safetensors file holds, in GB.")] = 5.0,
    prompts: Annotated[
        Path | None, typer.Option(help="Texts to compare on (.txt, .jsonl), not those of the training or our own.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="Another form than the model's own: llama, internlm2, ...")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template by name, for a model that brings none.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="An adapter to merge into the model.")] = None,
    onto_original: Annotated[
        bool, typer.Option("--onto-original", help="QLoRA: merge into the base's own weights, not into its 4 bits.")
    ] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Write it even if it answers otherwise than MODEL.")] = False,
) -> None:
    """Writes a plain Hugging Face folder or a GGUF file, an adapter merged in, and checks that it says the same."""
    from danlu.ledger.errors import UserError
    from danlu.recipe.export import export_model

    if gguf and dtype:
        raise UserError("--gguf names the form already", where=f"--dtype {dtype}", do="leave one of them out")
    export_model(
        model,
        out,
        dtype or "bf16",
        family=family,
        template=template,
        adapter=adapter,
        accept=accept,
        onto_original=onto_original,
        gguf=gguf,
        shard_bytes=shard_gb * 1e9,
        prompts=prompts,
    )


def forms(
    model: ModelPath,
    only: Annotated[
        list[str] | None,
        typer.Option("--form", help="float32, bf16, int8 or int4: compare these with the first; else all of them."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Texts to compare on (.txt, .jsonl), not those of the training or our own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the table to this file too.")] = None,
) -> None:
    """Compares float32, bf16, int8 and int4: memory, bits per byte, agreement, tokens a second."""
    from danlu.recipe.forms import FORMS, compare_forms

    compare_forms(model, only or tuple(FORMS), prompts, out)
