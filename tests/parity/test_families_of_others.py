"""Baichuan, InternLM2 and Yi against references that know nothing of our decoder, and back into their own forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from danlu.model.alibi import slopes
from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.families.config import read_config
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.settings import ModelSettings, parameters
from danlu.model.stored import Stored

from .float64_reference import baichuan_logits, internlm2_logits, press_slopes
from .foreign_folders import (
    BAICHUAN_7B,
    BAICHUAN_13B,
    INTERNLM2_7B,
    YI_6B,
    as_arrays,
    random_weights,
    write_folder,
)

LENGTH = 21
QUICK = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def our_logits(decoder: Decoder, tokens: list[int]) -> torch.Tensor:
    cu, ids = torch.tensor([0, len(tokens)], dtype=torch.int32), torch.tensor([tokens])
    attend = Documents(cu, len(tokens), torch.zeros_like(ids), dtype=decoder.embed.weight.dtype)
    with torch.no_grad():
        return decoder.head.logits(decoder(ids, torch.arange(len(tokens))[None], attend))[0]


def tokens_of(vocabulary: int, seed: int, length: int = LENGTH) -> list[int]:
    return torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def small(config: dict[str, Any], heads: int, head: int, **more: Any) -> dict[str, Any]:
    shape = {"hidden_size": heads * head, "num_attention_heads": heads, "num_hidden_layers": 2, "vocab_size": 67}
    return config | shape | {"intermediate_size": 40} | more


@st.composite
def baichuan_configs(draw: st.DrawFn) -> dict[str, Any]:
    config = draw(st.sampled_from([BAICHUAN_7B, BAICHUAN_13B]))
    second = {"vocab_size": 125_696, "num_hidden_layers": 1} if draw(st.integers(0, 5)) == 0 else {}
    return small(config, draw(st.sampled_from([1, 2, 3, 5, 8])), draw(st.sampled_from([4, 6, 8]))) | second


@settings(max_examples=20, **QUICK)
@given(config=baichuan_configs(), seed=st.integers(0, 2**16), shards=st.integers(0, 3))
def test_baichuan_is_the_float64_reference(
    config: dict[str, Any], seed: int, shards: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = random_weights(config, seed)
    folder = write_folder(tmp_path_factory.mktemp("baichuan") / "model", config, weights, shards)
    tokens = tokens_of(config["vocab_size"], seed)
    expected = torch.from_numpy(baichuan_logits(config, as_arrays(weights), tokens))
    assert (our_logits(load_decoder(folder), tokens) - expected).abs().max() <= 1e-4
    assert (our_logits(load_decoder(folder, torch.float64), tokens) - expected).abs().max() <= 1e-6


@settings(max_examples=15, **QUICK)
@given(
    groups=st.sampled_from([(1, 1), (1, 4), (2, 2), (3, 1), (2, 3)]),
    head=st.sampled_from([4, 6, 8]),
    theta=st.sampled_from([10_000.0, 1_000_000.0]),
    seed=st.integers(0, 2**16),
    shards=st.integers(0, 2),
)
def test_internlm2_is_the_float64_reference(
    groups: tuple[int, int], head: int, theta: float, seed: int, shards: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys, queries = groups
    config = small(INTERNLM2_7B, keys * queries, head, num_key_value_heads=keys, rope_theta=theta)
    weights = random_weights(config, seed)
    folder = write_folder(tmp_path_factory.mktemp("internlm2") / "model", config, weights, shards)
    tokens = tokens_of(67, seed)
    expected = torch.from_numpy(internlm2_logits(config, as_arrays(weights), tokens))
    assert (our_logits(load_decoder(folder), tokens) - expected).abs().max() <= 1e-4
    assert (our_logits(load_decoder(folder, torch.float64), tokens) - expected).abs().max() <= 1e-6


def test_wider_shapes_are_the_reference_too(tmp_path: Path) -> None:
    alibi = small(BAICHUAN_13B, 40, 16, intermediate_size=900)
    grouped = small(INTERNLM2_7B, 16, 32, num_key_value_heads=4, intermediate_size=900)
    for config, logits in ((alibi, baichuan_logits), (grouped, internlm2_logits)):
        weights = random_weights(config, 3, scale=0.05)
        folder = write_folder(tmp_path / config["model_type"], config, weights, shards=2)
        tokens = tokens_of(67, 4, 60)
        expected = torch.from_numpy(logits(config, as_arrays(weights), tokens))
        assert (our_logits(load_decoder(folder), tokens) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("heads", [1, 2, 5, 8, 12, 32, 40, 48])
def test_slopes_are_those_of_the_paper(heads: int) -> None:
    assert slopes(heads).tolist() == pytest.approx(press_slopes(heads), rel=1e-14)


def test_baichuan_7b_is_llama_with_its_matrix_split(tmp_path: Path) -> None:
    config = small(BAICHUAN_7B, 6, 8)
    weights = random_weights(config, 1)
    folder = write_folder(tmp_path / "model", config, weights, shards=2)
    shape = {key: config[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")}
    llama = LlamaForCausalLM(LlamaConfig(intermediate_size=40, rms_norm_eps=1e-6, **shape)).eval()
    split = {name: weight for name, weight in weights.items() if "W_pack" not in name}
    for name, weight in weights.items():
        if "W_pack" in name:
            for slot, part in zip("qkv", weight.chunk(3), strict=True):
                split[name.replace("W_pack", f"{slot}_proj")] = part
    assert not llama.load_state_dict(split, strict=False).unexpected_keys
    tokens = tokens_of(67, 1)
    with torch.no_grad():
        expected = llama(torch.tensor([tokens])).logits[0]
    assert (our_logits(load_decoder(folder), tokens) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "config",
    [
        small(BAICHUAN_7B, 4, 8),
        small(BAICHUAN_7B, 4, 8, vocab_size=125_696),
        small(INTERNLM2_7B, 4, 8, num_key_value_heads=2),
        small(YI_6B, 4, 8, num_key_value_heads=2),
    ],
    ids=["baichuan", "baichuan2", "internlm2", "Yi"],
)
def test_what_is_llama_is_written_as_llama_and_opens_without_code_of_anyone(
    config: dict[str, Any], tmp_path: Path
) -> None:
    weights = random_weights(config, 2)
    decoder = load_decoder(write_folder(tmp_path / "model", config, weights, shards=1))
    assert decoder.settings.family == "llama"
    save_decoder(decoder, tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert type(model) is LlamaForCausalLM
    tokens = tokens_of(67, 2)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    assert (our_logits(decoder, tokens) - expected).abs().max() <= 1e-4
    if config["model_type"] == "Yi":
        q = "model.layers.1.self_attn.q_proj.weight"
        assert torch.equal(model.state_dict()[q], weights[q])
        assert torch.equal(
            model.state_dict()["model.layers.1.input_layernorm.weight"], weights["model.layers.1.ln1.weight"]
        )


@pytest.mark.parametrize("heads", [4, 5])
@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_alibi_opens_with_the_class_beside_its_weights(heads: int, act: str, tmp_path: Path) -> None:
    config = small(BAICHUAN_13B, heads, 8, hidden_act=act)
    decoder = load_decoder(write_folder(tmp_path / "model", config, random_weights(config, 5)))
    assert (decoder.settings.family, decoder.settings.positions) == ("baichuan", "alibi")
    out = tmp_path / f"out_{heads}_{act}"
    save_decoder(decoder, out)
    assert sorted(path.name for path in out.glob("*.py")) == ["modeling_danlu.py"]
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True, dtype=torch.float32).eval()
    tokens = torch.tensor([tokens_of(67, 5), tokens_of(67, 6)])
    with torch.no_grad():
        expected = model(tokens).logits
        for row, logits in zip(tokens.tolist(), expected, strict=True):
            assert (our_logits(decoder, row) - logits).abs().max() <= 1e-4
        padded = torch.cat([torch.zeros(2, 4, dtype=torch.long), tokens], dim=1)
        seen = (torch.arange(padded.shape[1]) >= 4).long().expand_as(padded)
        assert (model(padded, attention_mask=seen).logits[:, 4:] - expected).abs().max() <= 1e-4
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(padded, attention_mask=seen, **greedy)
    assert torch.equal(cached, model.generate(padded, attention_mask=seen, use_cache=False, **greedy))
    again = load_decoder(out)
    assert again.settings == decoder.settings
    loss = model.train()(tokens, labels=tokens).loss
    wanted = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, wanted)
    model.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_decoder(tmp_path / "theirs").blocks[1].qkv.weight, decoder.blocks[1].qkv.weight)


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (small(BAICHUAN_7B, 4, 8), "baichuan"),
        (small(BAICHUAN_13B, 5, 8), "baichuan"),
        (small(INTERNLM2_7B, 4, 8, num_key_value_heads=2), "internlm2"),
    ],
    ids=["7b", "13b", "internlm2"],
)
def test_their_own_form_comes_back_bit_for_bit(config: dict[str, Any], family: str, tmp_path: Path) -> None:
    weights = random_weights(config, 7)
    decoder = load_decoder(write_folder(tmp_path / "model", config, weights, shards=2))
    decoder.settings = decoder.settings.model_copy(update={"family": family})
    save_decoder(decoder, tmp_path / "out", shard_bytes=9_000)

    stored = Stored(tmp_path / "out")
    assert len(stored.paths) > 1 and stored.places.keys() == weights.keys()
    assert all(torch.equal(stored.read(name), weight) for name, weight in weights.items())
    stated, first = read_config(tmp_path / "out"), read_config(tmp_path / "model")
    assert (stated.shape, stated.family, stated.norm_head) == (first.shape, first.family, first.norm_head)
    tokens = tokens_of(67, 7)
    assert torch.equal(our_logits(load_decoder(tmp_path / "out"), tokens), our_logits(decoder, tokens))


def test_a_baked_head_is_not_divided_again(tmp_path: Path) -> None:
    config = small(BAICHUAN_13B, 2, 4, vocab_size=125_696, num_hidden_layers=1)
    decoder = load_decoder(write_folder(tmp_path / "model", config, random_weights(config, 8), shards=1))
    assert torch.allclose(decoder.head.weight.norm(dim=1), torch.ones(125_696))
    with torch.no_grad():
        decoder.head.weight.mul_(3)
    save_decoder(decoder, tmp_path / "out")
    assert torch.equal(load_decoder(tmp_path / "out").head.weight, decoder.head.weight)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BAICHUAN_7B, 7_000_559_616),
        (BAICHUAN_13B, 13_264_901_120),
        (BAICHUAN_7B | {"vocab_size": 125_696}, 7_505_973_248),
        (BAICHUAN_13B | {"vocab_size": 125_696}, 13_896_668_160),
        (INTERNLM2_7B, 7_737_708_544),
        (YI_6B, 6_061_035_520),
    ],
    ids=["baichuan-7b", "baichuan-13b", "baichuan2-7b", "baichuan2-13b", "internlm2-7b", "yi-6b"],
)
def test_published_sizes_follow_from_the_config_alone(config: dict[str, Any], count: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = read_config(tmp_path).shape
    assert parameters(shape) == count
    assert sum(weight.numel() for weight in Decoder.empty(shape, device="meta").parameters()) == count


PUBLISHED = {
    # family, vocabulary, width, layers, heads, key-value heads, MLP, tied, more
    "qwen2.5-0.5b": (494_032_768, "qwen2", 151_936, 896, 24, 14, 2, 4_864, True, {}),
    "qwen2.5-7b": (7_615_616_512, "qwen2", 152_064, 3_584, 28, 28, 4, 18_944, False, {}),
    "qwen3-0.6b": (596_049_920, "qwen3", 151_936, 1_024, 28, 16, 8, 3_072, True, {"head_dim": 128}),
    "llama-2-7b": (6_738_415_616, "llama", 32_000, 4_096, 32, 32, 32, 11_008, False, {}),
    "llama-2-13b": (13_015_864_320, "llama", 32_000, 5_120, 40, 40, 40, 13_824, False, {}),
    "llama-3.1-8b": (8_030_261_248, "llama", 128_256, 4_096, 32, 32, 8, 14_336, False, {}),
    "mistral-7b": (7_241_732_096, "mistral", 32_000, 4_096, 32, 32, 8, 14_336, False, {}),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_sizes_of_the_others(model: str) -> None:
    count, *shape, more = PUBLISHED[model]
    keys = ("family", "vocab_size", "hidden_size", "layers", "heads", "kv_heads", "mlp_size", "tie_embeddings")
    made = ModelSettings.model_validate(dict(zip(keys, shape, strict=True)) | more)
    assert parameters(made) == count
    assert sum(weight.numel() for weight in Decoder.empty(made, device="meta").parameters()) == count


def test_numpy_reference_is_causal() -> None:
    config = small(BAICHUAN_13B, 3, 4)
    weights = as_arrays(random_weights(config, 9))
    tokens = tokens_of(67, 9)
    changed = [*tokens[:-1], (tokens[-1] + 1) % 67]
    first, second = (baichuan_logits(config, weights, one) for one in (tokens, changed))
    assert np.array_equal(first[:-1], second[:-1]) and not np.allclose(first[-1], second[-1])
