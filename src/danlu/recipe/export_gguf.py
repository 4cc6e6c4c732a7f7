"""A folder for llama.cpp and Ollama: one GGUF file, and a Modelfile beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from danlu.evaluate.llama_cpp import InLlamaCpp, installed
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.model.gguf.file import GGUFForm, architecture, context_length, read_gguf, write_gguf
from danlu.model.gguf.words import words_of
from danlu.model.settings import ModelSettings
from danlu.recipe.same_ids import require_same_ids
from danlu.tokens.ollama import modelfile
from danlu.tokens.template import Template

if TYPE_CHECKING:
    from danlu.evaluate.agreement import Form
    from danlu.model.decoder import Decoder
    from danlu.tokens.tokenizer import Tokenizer

MODELFILE = "Modelfile"
_OTHER_WAY = "export a Hugging Face folder (leave --gguf out)"


def write_gguf_folder(decoder: Decoder, tokenizer: Tokenizer, folder: Path, form: GGUFForm, name: str) -> Path:
    """Writes `name`-`form`.gguf and the Modelfile; gives the file.

    Raises UserError as `write_gguf` and `words_of` do, and for a tokenizer without an end.
    """
    architecture(decoder.settings)  # refuses before anything is computed
    template = Template(tokenizer) if tokenizer.chat_template is not None else None
    ends = [*(template.stop_ids if template else ()), tokenizer.eos_id]
    if ends[0] is None:
        raise UserError(
            "this tokenizer names no end token, and llama.cpp would take another for it",
            where=tokenizer.origin,
            do="name eos_token in tokenizer_config.json, or give a --template",
        )
    path = folder / f"{name}-{form}.gguf"
    words = words_of(tokenizer, decoder.settings.vocab_size)
    write_gguf(decoder, path, form, words, tokenizer, name=name, stop_id=ends[0])
    with atomic_file(folder / MODELFILE) as handle:
        handle.write(modelfile(template, path.name, context_length(decoder.settings)))
    return path


def opened_again(
    path: Path, settings: ModelSettings, tokenizer: Tokenizer, tokens: int, told: bool
) -> tuple[Form, str]:
    """The file as its users open it, with room for `tokens`, and who opened it: llama.cpp; where it is not installed
    danlu, which reads the weights back. Raises UserError where llama.cpp reads text as other tokens, unless `told`.
    """
    who = installed()
    if who is None:
        return _read_back(path, settings), "danlu, for want of llama-cpp-python (pip install 'danlu[llama-cpp]')"
    try:
        form = InLlamaCpp.open(path, tokens)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{who} does not open the file: {error}", where=str(path), do=_OTHER_WAY) from None
    require_same_ids(
        tokenizer,
        form.encode,
        lambda text: form.encode(text, markup=True),
        who,
        path,
        told,
        f"{_OTHER_WAY}, or insist (--accept)",
    )
    return form, who


def _read_back(path: Path, settings: ModelSettings) -> Form:
    from danlu.evaluate.agreement import InEngine
    from danlu.infer.engine import Engine
    from danlu.model.decoder import Decoder

    decoder = Decoder.empty(settings)
    read_gguf(path, decoder)
    return InEngine(Engine(decoder))
