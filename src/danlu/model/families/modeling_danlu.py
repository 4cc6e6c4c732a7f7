"""A causal decoder with ALiBi, RMSNorm and a gated MLP in Baichuan-13B's form, for transformers 4.45 and later.

danlu lays this file beside such a model's weights, for Hugging Face has no class for it. It needs torch and
transformers alone, and `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` opens the folder with it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast


class DanluConfig(PretrainedConfig):
    """The keys of Baichuan-13B's config.json."""

    model_type = "baichuan"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 64_000,
        hidden_size: int = 5_120,
        intermediate_size: int = 13_696,
        num_hidden_layers: int = 40,
        num_attention_heads: int = 40,
        hidden_act: str = "silu",
        model_max_length: int = 4_096,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-6,
        use_cache: bool = True,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.hidden_act = hidden_act
        self.model_max_length = model_max_length
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": False, **others})


class Norm(nn.Module):
    """RMSNorm, summed in float32 or better."""

    def __init__(self, config: DanluConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Attention over all heads, its mask with the bias of each in it."""

    def __init__(self, config: DanluConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = config.num_attention_heads, layer
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, mask_BHTS: Tensor, cache: Cache | None) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.W_pack(x_BTD).chunk(3, dim=-1))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        attended = F.scaled_dot_product_attention(q, k, v, mask_BHTS)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """activation(gate) * up, and down again."""

    def __init__(self, config: DanluConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = nn.SiLU() if config.hidden_act == "silu" else nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: DanluConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = Norm(config)
        self.post_attention_layernorm = Norm(config)

    def forward(self, x: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: DanluConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Norm(config)

    def forward(self, x: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, cache)
        return self.norm(x)


class DanluForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder with its head."""

    config_class = DanluConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]  # noqa: RUF012  # transformers reads lists
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: DanluConfig) -> None:
        super().__init__(config)
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts another embedding in its place."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Puts another head in its place."""
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] (of the last `logits_to_keep` tokens, 0: all); with `labels` the mean loss of the next."""
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache()
        before = past_key_values.get_seq_length() if past_key_values is not None else 0
        mask = _mask(self.config.num_attention_heads, before, x, attention_mask)
        hidden = self.model(x, mask, past_key_values if use_cache else None)
        logits = self.lm_head(hidden[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values if use_cache else None)


def _mask(heads: int, before: int, x_BTD: Tensor, padding_BS: Tensor | None) -> Tensor:
    """slope * (key - query) [B or 1, H, T, S], and the least number where a query does not see a key."""
    length, device = x_BTD.shape[1], x_BTD.device
    keys_S = torch.arange(before + length, device=device)
    distance_TS = keys_S - keys_S[before:, None]
    unseen = (distance_TS > 0)[None, None]
    if padding_BS is not None:
        unseen = unseen | (padding_BS[:, None, None, : before + length] == 0)
    wide = torch.promote_types(x_BTD.dtype, torch.float32)
    bias_HTS = _slopes(heads).to(device, wide)[:, None, None] * distance_TS
    least = torch.finfo(x_BTD.dtype).min
    return bias_HTS[None].masked_fill(unseen, least).clamp(min=least).to(x_BTD.dtype)


def _slopes(heads: int) -> Tensor:
    """ALiBi's slopes (Press et al. 2022); for other numbers than powers of two, those of the next in between."""
    below = 2 ** int(math.log2(heads))
    first = [2 ** (-8 * head / below) for head in range(1, below + 1)]
    between = [2 ** (-4 * head / below) for head in range(1, 2 * (heads - below), 2)]
    return torch.tensor(first + between, dtype=torch.float64)
