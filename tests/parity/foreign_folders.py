"""Folders in the formats in which Baichuan, InternLM2 and Yi were published, at random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

BAICHUAN_7B = {
    "architectures": ["BaiChuanForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_baichuan.BaiChuanConfig",
        "AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM",
    },
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "baichuan",
    "num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-06, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.29.1", "use_cache": True, "vocab_size": 64000,
}  # fmt: skip
BAICHUAN_13B = {
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_baichuan.BaichuanConfig",
        "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
    },
    "tokenizer_class": "BaichuanTokenizer", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "gradient_checkpointing": [False], "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
    "intermediate_size": 13696, "model_max_length": 4096, "model_type": "baichuan", "num_attention_heads": 40,
    "num_hidden_layers": 40, "rms_norm_eps": 1e-06, "torch_dtype": "bfloat16", "transformers_version": "4.29.2",
    "use_cache": True, "vocab_size": 64000,
}  # fmt: skip
INTERNLM2_7B = {
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
    },
    "bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "internlm2",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"}, "rope_theta": 1000000, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.37.1", "use_cache": True, "vocab_size": 92544,
}  # fmt: skip
YI_6B = {
    "architectures": ["YiForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_yi.YiConfig", "AutoModelForCausalLM": "modeling_yi.YiForCausalLM"},
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "Yi",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 4, "rms_norm_eps": 1e-05,
    "rope_theta": 5000000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0", "use_cache": True, "vocab_size": 64000,
}  # fmt: skip

_LAYERS = {
    "baichuan": {
        "self_attn.W_pack": "D 3D", "self_attn.o_proj": "D D", "mlp.gate_proj": "D F", "mlp.up_proj": "D F",
        "mlp.down_proj": "F D", "input_layernorm": "D", "post_attention_layernorm": "D",
    },
    "internlm2": {
        "attention.wqkv": "D Q", "attention.wo": "D D", "feed_forward.w1": "D F", "feed_forward.w3": "D F",
        "feed_forward.w2": "F D", "attention_norm": "D", "ffn_norm": "D",
    },
    "Yi": {
        "self_attn.q_proj": "D D", "self_attn.k_proj": "D K", "self_attn.v_proj": "D K", "self_attn.o_proj": "D D",
        "mlp.gate_proj": "D F", "mlp.up_proj": "D F", "mlp.down_proj": "F D", "ln1": "D", "ln2": "D",
    },
}  # fmt: skip
_ENDS = {
    "baichuan": ("model.embed_tokens", "lm_head"),
    "internlm2": ("model.tok_embeddings", "output"),
    "Yi": ("model.embed_tokens", "lm_head"),
}


def random_weights(config: dict[str, Any], seed: int, scale: float = 0.2) -> dict[str, torch.Tensor]:
    """Weights under the published names, float32, large enough that every part of the arithmetic shows."""
    generator = torch.Generator().manual_seed(seed)
    width, family = config["hidden_size"], config["model_type"]
    head = width // config["num_attention_heads"]
    keys = config.get("num_key_value_heads", config["num_attention_heads"]) * head
    sizes = {"D": width, "3D": 3 * width, "F": config["intermediate_size"], "K": keys, "Q": width + 2 * keys}

    def draw(shape: str) -> torch.Tensor:
        into, *out = (sizes[letter] for letter in shape.split())
        return torch.randn(*out, into, generator=generator) * scale + (0 if out else 1)

    embedding, output = _ENDS[family]
    sizes["V"] = config["vocab_size"]
    weights = {f"{embedding}.weight": draw("D V"), "model.norm.weight": draw("D"), f"{output}.weight": draw("D V")}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in _LAYERS[family].items():
            weights[f"model.layers.{layer}.{name}.weight"] = draw(shape)
    return weights


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], shards: int = 0) -> Path:
    """config.json beside `pytorch_model.bin` in `shards` files, or, with 0 of them, safetensors.

    Code that `auto_map` names is there too; whoever runs it fails.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for target in config.get("auto_map", {}).values():
        (folder / f"{target.partition('.')[0]}.py").write_text("raise SystemExit('code of the folder was run')")
    if not shards:
        save_file(weights, folder / "model.safetensors")
        return folder
    names, where = list(weights), {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save({name: weights[name] for name in names[number::shards]}, folder / file)
        where |= dict.fromkeys(names[number::shards], file)
    if shards > 1:
        size = sum(weight.nbytes for weight in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def as_arrays(weights: dict[str, torch.Tensor]) -> dict[str, NDArray[np.float64]]:
    """For the float64 reference."""
    return {name: weight.double().numpy() for name, weight in weights.items()}
