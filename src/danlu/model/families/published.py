"""Models as they were published: what their config.json says, and how their tokenizer is kept. No weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from danlu.model.families.config import stated
from danlu.model.settings import ModelSettings

PublishedName = Literal[
    "baichuan-7b", "baichuan2-7b", "baichuan-13b", "llama2-7b", "qwen2.5-0.5b-instruct", "qwen2.5-7b-instruct"
]
Words = Literal["baichuan", "llama", "qwen"]


@dataclass(frozen=True)
class Published:
    """`config` is the published config.json without the names of code; `words` the form of the tokenizer."""

    config: dict[str, Any]
    words: Words

    @property
    def shape(self) -> ModelSettings:
        """The decoder's shape."""
        return stated(self.config, Path("config.json")).shape


_LLAMA_7B = {
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True,
}  # fmt: skip
_QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "torch_dtype": "bfloat16", "use_cache": True,
    "use_sliding_window": False,
}  # fmt: skip

PUBLISHED: dict[PublishedName, Published] = {
    "baichuan-7b": Published(
        {"architectures": ["BaiChuanForCausalLM"], "model_type": "baichuan", **_LLAMA_7B, "vocab_size": 64000},
        "baichuan",
    ),
    # NormHead goes with the size of the vocabulary there; said here, for that of a small one is another.
    "baichuan2-7b": Published(
        {
            "architectures": ["BaichuanForCausalLM"],
            "model_type": "baichuan",
            **_LLAMA_7B,
            "model_max_length": 4096,
            "vocab_size": 125696,
            "norm_head": True,
        },
        "baichuan",
    ),
    # It states no max_position_embeddings: that is how its ALiBi is told.
    "baichuan-13b": Published(
        {
            "architectures": ["BaichuanForCausalLM"],
            "model_type": "baichuan",
            **{key: value for key, value in _LLAMA_7B.items() if key != "max_position_embeddings"},
            "hidden_size": 5120,
            "intermediate_size": 13696,
            "num_attention_heads": 40,
            "num_hidden_layers": 40,
            "model_max_length": 4096,
            "vocab_size": 64000,
        },
        "baichuan",
    ),
    "llama2-7b": Published(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **_LLAMA_7B,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32000,
        },
        "llama",
    ),
    "qwen2.5-0.5b-instruct": Published(
        {
            **_QWEN,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "vocab_size": 151936,
        },
        "qwen",
    ),
    "qwen2.5-7b-instruct": Published(
        {
            **_QWEN,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "vocab_size": 152064,
        },
        "qwen",
    ),
}


def small(config: dict[str, Any], entries: int) -> dict[str, Any]:
    """The config of a model of the same form with two narrow layers and `entries` in its vocabulary."""
    shape = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": entries,
    }  # fmt: skip
    grouped = config.get("num_key_value_heads", 0) < config["num_attention_heads"]
    keys = {"num_key_value_heads": 2 if grouped else 4} if "num_key_value_heads" in config else {}
    return config | shape | keys
