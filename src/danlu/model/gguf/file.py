"""A decoder in one GGUF file, both ways. Rows of q and k lie there as llama.cpp's rotation takes them."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.ledger.errors import UserError
from danlu.ledger.files import require_space
from danlu.model.decoder import Decoder
from danlu.model.gguf.words import Words
from danlu.model.parts import Part
from danlu.model.rope import inverse_frequencies
from danlu.model.settings import ModelSettings, parameters

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from danlu.tokens.tokenizer import Tokenizer

GGUFForm = Literal["f16", "bf16", "q8_0"]
_BITS = {"f16": 16.0, "bf16": 16.0, "q8_0": 8.5}
_ENDS = {"embed.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}
_LAYER = {
    "attention_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip
_PIECE = 1 << 24  # values
_ALIBI_LAYERS = 40  # llama.cpp knows Baichuan-13B, which alone of its models in this form has ALiBi, by its layers


def write_gguf(
    decoder: Decoder, path: Path, form: GGUFForm, words: Words, tokenizer: Tokenizer, *, name: str, stop_id: int
) -> None:
    """Writes matrices in `form`, the rest in float32, with the tokenizer and its chat template; tensor by tensor.

    `stop_id` ends an answer. Raises UserError for a decoder that llama.cpp does not compute, weights beyond fp16, a
    full disk, and where the package `gguf` is missing.
    """
    arch = architecture(decoder.settings)
    library = _library()
    require_space(path, int(parameters(decoder.settings) * _BITS[form] / 8 * 1.02), "the GGUF file")
    writer = library.GGUFWriter(path, arch)
    writer.add_name(name)
    _write_shape(writer, decoder.settings, arch)
    _write_words(writer, words, tokenizer, stop_id)
    writer.add_file_type(getattr(library.LlamaFileType, "MOSTLY_" + form.upper()))
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    kinds = library.GGMLQuantizationType
    plan = [(part, _kind(part, form)) for part in decoder.parts()]
    factors = _frequency_factors(decoder.settings)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for part, kind in plan:
        shape = library.quant_shape_to_byte_shape(part.shape, kinds[kind]) if kind in ("BF16", "Q8_0") else part.shape
        held = {"F32": np.float32, "F16": np.float16}.get(kind, np.uint8)
        size = math.prod(shape) * np.dtype(held).itemsize
        writer.add_tensor_info(gguf_name(part.name), shape, np.dtype(held), size, kinds[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for part, kind in plan:
        values = _values(decoder, part, kind, arch)
        try:
            writer.write_tensor_data(values)
        except OSError as error:  # numpy's, of a full disk, has no number
            raise OSError(error.errno or errno.ENOSPC, str(error)) from error
    writer.close()


def read_gguf(path: Path, decoder: Decoder) -> None:
    """Puts the weights of a file that `write_gguf` wrote into a decoder of the same shape, in its dtype.

    Raises KeyError for a tensor that is missing.
    """
    library = _library()
    arch = architecture(decoder.settings)
    tensors = {tensor.name: tensor for tensor in library.GGUFReader(path).tensors}
    for part in decoder.parts():
        held = tensors[gguf_name(part.name)]
        values = torch.from_numpy(np.array(library.dequantize(held.data, held.tensor_type))).reshape(part.shape)
        heads = _turned_heads(part.name, decoder.settings, arch)
        if heads:
            values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(part.shape)
        part.write(part.parameter.detach(), values)


def architecture(settings: ModelSettings) -> str:
    """llama.cpp's name for the arithmetic of a decoder. Raises UserError where it has none."""
    why = None
    scaling = settings.rope_scaling
    if settings.head == "reward":
        why = "a reward model"
    elif settings.activation != "silu":
        why = f"a gate of {settings.activation} (its gates are silu)"
    elif settings.positions == "alibi" and settings.layers != _ALIBI_LAYERS:
        why = f"ALiBi in {settings.layers} layers (it knows Baichuan-13B's {_ALIBI_LAYERS} only)"
    elif scaling and scaling.type == "llama3" and (settings.qkv_bias or settings.qk_norm):
        why = "llama3's scaling of rotary positions in a form other than llama's"
    if why:
        raise UserError(
            f"llama.cpp does not compute {why}",
            where=f"a {settings.family} model",
            do="export a Hugging Face folder (leave --gguf out)",
        )
    if settings.positions == "alibi":
        return "baichuan"
    return "qwen2" if settings.qkv_bias else "qwen3" if settings.qk_norm else "llama"


def context_length(settings: ModelSettings) -> int:
    """Tokens up to which llama.cpp computes what the decoder does: it knows no sliding window in these models."""
    return min(settings.max_positions, settings.sliding_window or settings.max_positions)


def gguf_name(part: str) -> str:
    """`blk.3.attn_q.weight` for `layers.3.q.weight`."""
    if part in _ENDS:
        return _ENDS[part]
    _, layer, slot, kind = part.split(".")
    return f"blk.{layer}.{_LAYER[slot]}.{kind}"


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF needs the package gguf", do="pip install 'danlu[gguf]'") from None
    return gguf


def _write_shape(writer: GGUFWriter, settings: ModelSettings, arch: str) -> None:
    writer.add_vocab_size(settings.vocab_size)
    writer.add_context_length(context_length(settings))
    writer.add_embedding_length(settings.hidden_size)
    writer.add_block_count(settings.layers)
    writer.add_feed_forward_length(settings.mlp_size)
    writer.add_head_count(settings.heads)
    writer.add_head_count_kv(settings.kv_heads)
    writer.add_key_length(settings.head_size)
    writer.add_value_length(settings.head_size)
    writer.add_layer_norm_rms_eps(settings.norm_eps)
    writer.add_rope_dimension_count(settings.head_size)
    writer.add_rope_freq_base(settings.rope_theta)
    scaling = settings.rope_scaling
    if scaling and scaling.type in ("linear", "yarn"):
        writer.add_string(f"{arch}.rope.scaling.type", scaling.type)
        writer.add_rope_scaling_factor(scaling.factor)
    if scaling and scaling.type == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_positions or settings.max_positions)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow or 1.0)
        if scaling.attention_factor is not None:  # llama.cpp multiplies its own 0.1 ln(factor) + 1 by this
            writer.add_rope_scaling_attn_factors(scaling.attention_factor / (0.1 * math.log(scaling.factor) + 1.0))


def _frequency_factors(settings: ModelSettings) -> NDArray[np.float32] | None:
    """By what llama3's scaling divides each frequency, float32 [head / 2]."""
    if settings.rope_scaling is None or settings.rope_scaling.type != "llama3":
        return None
    plain, _ = inverse_frequencies(settings.model_copy(update={"rope_scaling": None}))
    scaled, _ = inverse_frequencies(settings)
    factors: NDArray[np.float32] = (plain / scaled).numpy()
    return factors


def _write_words(writer: GGUFWriter, words: Words, tokenizer: Tokenizer, stop_id: int) -> None:
    writer.add_tokenizer_model(words.kind)
    writer.add_tokenizer_pre(words.splitting)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.kind == "gpt2":
        writer.add_token_merges(words.merges)
    else:
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(words.adds_space)
    end = tokenizer.eos_id if tokenizer.eos_id is not None else stop_id
    writer.add_eos_token_id(end)
    if stop_id != end:
        writer.add_eot_token_id(stop_id)
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(bool(tokenizer.begins))
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _kind(part: Part, form: GGUFForm) -> str:
    """A tensor's form: vectors stay float32, rows that are no whole blocks of 32 stay f16."""
    if len(part.shape) == 1:
        return "F32"
    return "F16" if form == "q8_0" and part.shape[-1] % 32 else form.upper()


def _values(decoder: Decoder, part: Part, kind: str, arch: str) -> NDArray[Any]:
    weight = part.read(part.parameter.detach()).cpu()
    heads = _turned_heads(part.name, decoder.settings, arch)
    if heads:
        weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(part.shape)
    if kind == "F16":
        _require_half(weight, part)
    # In pieces: an embedding in float32, and what rounding it takes beside, would outweigh many layers.
    pieces = weight.split(max(1, _PIECE * len(weight) // weight.numel()))
    values: NDArray[Any] = np.concatenate([_rounded(piece, kind) for piece in pieces])
    return values


def _rounded(weight: Tensor, kind: str) -> NDArray[Any]:
    """As it lies in the file; bf16 and blocks as bytes."""
    if kind == "BF16":
        return weight.bfloat16().view(torch.uint8).numpy()
    if kind in ("F16", "F32"):
        return weight.to(torch.float16 if kind == "F16" else torch.float32).numpy()
    library = _library()
    values: NDArray[Any] = library.quantize(weight.float().numpy(), library.GGMLQuantizationType[kind])
    return values


def _turned_heads(part: str, settings: ModelSettings, arch: str) -> int:
    """Heads of q and k where llama.cpp turns neighbours, and not halves; 0 for all else."""
    slot = part.split(".")[-2]
    return {"q": settings.heads, "k": settings.kv_heads}.get(slot, 0) if arch == "llama" else 0


def _require_half(weight: Tensor, part: Part) -> None:
    if weight.abs().amax() > torch.finfo(torch.float16).max:
        raise UserError(f"{part.name} has values beyond 65504, the most of fp16", do="write bf16 or q8_0 (--gguf)")
