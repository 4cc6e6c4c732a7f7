"""Our decoder against transformers' own models: logits, weights, folders and greedy generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.folder import decoder_settings, load_decoder, save_decoder
from danlu.model.parts import initialise, load_unfused, unfused_state
from danlu.model.settings import ModelSettings

logging.disable_progress_bar()
LENGTH = 40
SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"type": "linear", "factor": 3.0},
    {"type": "dynamic", "factor": 2.0},
    {"type": "llama3", "factor": 8.0, "original_max_positions": 16},
    {
        "type": "llama3",
        "factor": 4.0,
        "original_max_positions": 12,
        "low_freq_factor": 1.5,
        "high_freq_factor": 6.0,
    },
    {"type": "yarn", "factor": 4.0, "original_max_positions": 16},
    {
        "type": "yarn",
        "factor": 2.0,
        "original_max_positions": 32,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "attention_factor": 1.3,
    },
]


@st.composite
def shapes(draw: st.DrawFn) -> ModelSettings:
    """Small random shapes that their family can express."""
    family = draw(st.sampled_from(["qwen2", "qwen3", "llama", "mistral"]))
    kv_heads, queries = draw(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 3), (3, 2)]))
    head = draw(st.sampled_from([4, 8, 14]))
    heads = kv_heads * queries
    free = family != "qwen2" and draw(st.booleans())
    return ModelSettings.model_validate(
        {
            "family": family,
            "vocab_size": draw(st.sampled_from([50, 97])),
            "hidden_size": heads * head if not free else heads * 6,
            "head_dim": head if free else None,
            "layers": draw(st.integers(1, 3)),
            "heads": heads,
            "kv_heads": kv_heads,
            "mlp_size": draw(st.sampled_from([24, 40])),
            "activation": draw(st.sampled_from(["silu", "gelu"])),
            "norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
            "rope_theta": draw(st.sampled_from([10_000.0, 1_000_000.0])),
            "rope_scaling": draw(st.sampled_from(SCALINGS)),
            "max_positions": 64,
            "sliding_window": draw(st.sampled_from([None, 7])) if family != "llama" else None,
            "tie_embeddings": draw(st.booleans()),
        }
    )


def strong(shape: ModelSettings, seed: int = 0) -> Decoder:
    """A decoder with weights large enough that every part of the arithmetic shows in the logits."""
    decoder = Decoder.empty(shape)
    initialise(decoder, seed)
    generator = torch.Generator().manual_seed(seed)
    state = unfused_state(decoder)
    load_unfused(decoder, {name: w + torch.randn(w.shape, generator=generator) * 0.2 for name, w in state.items()})
    return decoder


def our_logits(decoder: Decoder, tokens_BT: torch.Tensor) -> torch.Tensor:
    rows, length = tokens_BT.shape
    document_BT = torch.arange(rows, dtype=torch.int32)[:, None].expand(rows, length)
    cu = torch.arange(0, rows * length + 1, length, dtype=torch.int32)
    attend = Documents(cu, length, document_BT, decoder.settings.sliding_window, torch.float32)
    positions_BT = torch.arange(length).expand(rows, length)
    with torch.no_grad():
        return decoder.head.logits(decoder(tokens_BT, positions_BT, attend))


def reference(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes(), seed=st.integers(0, 2**16))
def test_folder_opens_in_transformers_with_equal_logits(
    shape: ModelSettings, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parity") / "model"
    decoder = strong(shape, seed)
    save_decoder(decoder, folder)
    model = reference(folder)
    tokens_BT = torch.randint(shape.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model(tokens_BT).logits
    assert (our_logits(decoder, tokens_BT) - expected).abs().max() <= 1e-4
    kept = {name: tensor for name, tensor in model.state_dict().items() if name in unfused_state(decoder)}
    assert all(torch.equal(kept[name], tensor) for name, tensor in unfused_state(decoder).items())


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes(), shard_bytes=st.sampled_from(["2KB", "50GB"]))
def test_folder_of_transformers_opens_here_bit_for_bit(
    shape: ModelSettings, shard_bytes: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ours, theirs, again = (tmp_path_factory.mktemp("parity") / name for name in ("ours", "theirs", "again"))
    save_decoder(strong(shape), ours)
    reference(ours).save_pretrained(theirs, max_shard_size=shard_bytes)
    assert (theirs / "model.safetensors.index.json").exists() == (shard_bytes == "2KB")
    decoder = load_decoder(theirs)
    save_decoder(decoder, again, shard_bytes=2_000)
    expected = reference(theirs).state_dict()
    back = reference(again).state_dict()
    assert expected.keys() == back.keys()
    assert all(torch.equal(tensor, back[name]) for name, tensor in expected.items())
    tokens_BT = torch.randint(shape.vocab_size, (1, LENGTH))
    with torch.no_grad():
        assert (our_logits(decoder, tokens_BT) - reference(theirs)(tokens_BT).logits).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_a_wider_shape_too(family: str, tmp_path: Path) -> None:
    shape = {"family": family, "vocab_size": 1_000, "hidden_size": 512, "layers": 4, "heads": 8, "kv_heads": 2}
    decoder = Decoder.empty(ModelSettings.model_validate(shape | {"mlp_size": 1_376, "rope_theta": 1_000_000.0}))
    initialise(decoder, 1)
    save_decoder(decoder, tmp_path / "model", dtype=torch.float32)
    tokens_BT = torch.randint(1_000, (1, 300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(tmp_path / "model")(tokens_BT).logits
    assert (our_logits(decoder, tokens_BT) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_greedy_generation_is_transformers_up_to_its_own_near_ties(family: str, tmp_path: Path) -> None:
    shape = ModelSettings.model_validate(
        {"family": family, "vocab_size": 89, "hidden_size": 48, "layers": 2, "heads": 6, "kv_heads": 2, "mlp_size": 64}
    )
    decoder = strong(shape, seed=3)
    save_decoder(decoder, tmp_path / "model")
    model = reference(tmp_path / "model")
    compared = 0
    for prompt in ([5, 17, 3, 60, 2], [1], [88, 0, 88, 0], [40, 41, 42]):
        tokens = torch.tensor([prompt])
        generated = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=40,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for step, logits in enumerate(generated.logits):
            best = logits[0].topk(2).values
            if best[0] - best[1] <= 1e-3:
                break
            tokens = torch.cat([tokens, our_logits(decoder, tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
            assert tokens[0, -1] == generated.sequences[0, len(prompt) + step]
            compared += 1
    assert compared > 100


def test_random_initial_weights_have_the_distribution_of_transformers(tmp_path: Path) -> None:
    shape = ModelSettings(vocab_size=512, hidden_size=128, layers=2, heads=4, kv_heads=2, mlp_size=256)
    decoder = Decoder.empty(shape)
    initialise(decoder, seed=1)
    save_decoder(decoder, tmp_path / "model")
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "model"))
    ours = unfused_state(decoder)
    for name, theirs in fresh.named_parameters():
        assert abs(ours[name].std().item() - theirs.std().item()) < 0.001 if theirs.ndim > 1 else True, name
        if theirs.ndim == 1:
            assert torch.equal(ours[name], theirs), name


def test_config_in_the_form_of_transformers_4_reads_the_same(tmp_path: Path) -> None:
    shape = ModelSettings.model_validate(
        {"family": "llama", "rope_theta": 500_000.0, "rope_scaling": SCALINGS[4], "max_positions": 64}
    )
    save_decoder(Decoder(shape.model_copy(update={"vocab_size": 64})), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    for absent in ("rope_parameters", "rope_scaling"):
        path.write_text(json.dumps({key: value for key, value in config.items() if key != absent}))
        found = decoder_settings(tmp_path / "model")
        assert (found.rope_theta, found.rope_scaling) == (shape.rope_theta, shape.rope_scaling)
        theirs = AutoConfig.from_pretrained(tmp_path / "model")
        assert theirs.rope_parameters["rope_type"] == "llama3"
        assert theirs.rope_parameters["rope_theta"] == 500_000.0


def test_the_real_qwen_config_reads(qwen_tokenizer: Path) -> None:
    shape = decoder_settings(qwen_tokenizer)
    assert (shape.family, shape.hidden_size, shape.layers, shape.heads, shape.kv_heads) == ("qwen2", 896, 24, 14, 2)
    assert shape.tie_embeddings and shape.sliding_window is None and shape.rope_theta == 1_000_000.0
