"""Baichuan and InternLM2 in float64, written from their papers and configurations alone; knows nothing of danlu.

Baichuan 2 (Yang et al. 2023, arXiv 2309.10305, section 2): RMSNorm before each part, SwiGLU, one matrix for q, k and v,
rotary positions at 7B and ALiBi at 13B, and (2 only) a head whose rows have length 1. InternLM2 (Cai et al. 2024, arXiv
2403.17297, section 2.2): Llama's structure; W_qkv holds, for each key-value head, its queries, its key, its value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def baichuan_logits(config: dict[str, Any], weights: dict[str, Array], tokens: list[int]) -> Array:
    """[T, V] of one sequence; `weights` under the names of `pytorch_model.bin`."""
    heads = config["num_attention_heads"]
    alibi = "max_position_embeddings" not in config
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        own = {name.partition(f"layers.{layer}.")[2]: w for name, w in weights.items() if f"layers.{layer}." in name}
        h = rms(x, own["input_layernorm.weight"], config["rms_norm_eps"])
        q, k, v = np.split(h @ own["self_attn.W_pack.weight"].T, 3, axis=-1)
        q, k, v = (np.stack(np.split(part, heads, axis=-1)) for part in (q, k, v))
        if alibi:
            o = attention(q, k, v, press_slopes(heads))
        else:
            o = attention(turned(q, 10_000.0), turned(k, 10_000.0), v, [0.0] * heads)
        x = x + np.concatenate(list(o), axis=-1) @ own["self_attn.o_proj.weight"].T
        h = rms(x, own["post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate, up = h @ own["mlp.gate_proj.weight"].T, h @ own["mlp.up_proj.weight"].T
        x = x + (silu(gate) * up) @ own["mlp.down_proj.weight"].T
    x = rms(x, weights["model.norm.weight"], config["rms_norm_eps"])
    head = weights["lm_head.weight"]
    if config["vocab_size"] == 125_696:
        head = head / np.linalg.norm(head, axis=-1, keepdims=True)
    return x @ head.T


def internlm2_logits(config: dict[str, Any], weights: dict[str, Array], tokens: list[int]) -> Array:
    """[T, V] of one sequence; `weights` under the names of the published files."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, per_group = config["hidden_size"] // heads, heads // groups
    x = weights["model.tok_embeddings.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        own = {name.partition(f"layers.{layer}.")[2]: w for name, w in weights.items() if f"layers.{layer}." in name}
        h = rms(x, own["attention_norm.weight"], config["rms_norm_eps"])
        packed = h @ own["attention.wqkv.weight"].T
        q, k, v = [], [], []
        for group in np.split(packed, groups, axis=-1):
            each = [group[:, at : at + size] for at in range(0, group.shape[1], size)]
            q += each[:per_group]
            k += [each[per_group]] * per_group
            v += [each[per_group + 1]] * per_group
        q, k = (turned(np.stack(part), config["rope_theta"]) for part in (q, k))
        o = attention(q, k, np.stack(v), [0.0] * heads)
        x = x + np.concatenate(list(o), axis=-1) @ own["attention.wo.weight"].T
        h = rms(x, own["ffn_norm.weight"], config["rms_norm_eps"])
        gate, up = h @ own["feed_forward.w1.weight"].T, h @ own["feed_forward.w3.weight"].T
        x = x + (silu(gate) * up) @ own["feed_forward.w2.weight"].T
    return rms(x, weights["model.norm.weight"], config["rms_norm_eps"]) @ weights["output.weight"].T


def attention(q: Array, k: Array, v: Array, slopes: list[float]) -> Array:
    """Causal, [H, T, D]; from each score its distance times the head's slope is taken off."""
    out = np.zeros_like(q)
    for head, slope in enumerate(slopes):
        for place in range(q.shape[1]):
            scores = [
                q[head, place] @ k[head, seen] / np.sqrt(q.shape[2]) - slope * (place - seen)
                for seen in range(place + 1)
            ]
            shares = np.exp(np.array(scores) - max(scores))
            out[head, place] = shares / shares.sum() @ v[head, : place + 1]
    return out


def press_slopes(heads: int) -> list[float]:
    """Of Press et al. 2022: a geometric sequence for powers of two, else the one below and every second of the next."""
    power = 1
    while power * 2 <= heads:
        power *= 2
    first = 2.0 ** (-8.0 / power)
    slopes = [first ** (head + 1) for head in range(power)]
    if power < heads:
        slopes += press_slopes(2 * power)[0::2][: heads - power]
    return slopes


def turned(x: Array, theta: float) -> Array:
    """Rotary positions [H, T, D]: dimension d turns with d + D/2, by position / theta^(2 d / D)."""
    half = x.shape[2] // 2
    turned = np.empty_like(x)
    for place in range(x.shape[1]):
        for dimension in range(half):
            angle = place / theta ** (2 * dimension / x.shape[2])
            a, b = x[:, place, dimension], x[:, place, dimension + half]
            turned[:, place, dimension] = a * np.cos(angle) - b * np.sin(angle)
            turned[:, place, dimension + half] = a * np.sin(angle) + b * np.cos(angle)
    return turned


def rms(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))
