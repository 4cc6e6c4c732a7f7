"""Shapes: what is refused, what is counted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.settings import ModelSettings, matmul_parameters, parameters, require_rows, training_flops

MINI_QWEN = {
    "family": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 1_024,
    "layers": 48,
    "heads": 16,
    "kv_heads": 4,
    "mlp_size": 4_864,
    "tie_embeddings": True,
}
BAICHUAN_SIZE = {
    "family": "llama",
    "vocab_size": 64_000,
    "hidden_size": 4_096,
    "layers": 32,
    "heads": 32,
    "mlp_size": 11_008,
    "tie_embeddings": False,
}


def test_mini_qwen_has_its_published_number_of_parameters() -> None:
    assert parameters(check(ModelSettings, MINI_QWEN)) == 998_810_624


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(["qwen2", "qwen3", "llama", "mistral"]),
    layers=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    queries=st.integers(1, 3),
    tied=st.booleans(),
    own_head=st.booleans(),
)
def test_parameters_are_those_of_the_decoder(
    family: str, layers: int, kv_heads: int, queries: int, tied: bool, own_head: bool
) -> None:
    heads = kv_heads * queries
    shape: dict[str, Any] = {"family": family, "layers": layers, "heads": heads, "kv_heads": kv_heads}
    shape |= {"hidden_size": heads * 4, "vocab_size": 37, "mlp_size": 20, "tie_embeddings": tied}
    if own_head and family != "qwen2":
        shape["head_dim"] = 6
    made = check(ModelSettings, shape)
    decoder = Decoder(made)
    assert parameters(made) == sum(parameter.numel() for parameter in decoder.parameters())
    products = sum(
        part.parameter.numel() for part in decoder.parts() if len(part.shape) == 2 and part.name != "embed.weight"
    )
    assert matmul_parameters(made) <= products + 37 * heads * 4


def test_operations_follow_the_usual_conventions() -> None:
    mini, seven = check(ModelSettings, MINI_QWEN), check(ModelSettings, BAICHUAN_SIZE)
    assert training_flops(mini, [1_024]) / 1_024 == pytest.approx(6.294e9, rel=1e-4)
    assert training_flops(seven, [4_096]) / 4_096 == pytest.approx(43.65e9, rel=1e-3)
    assert training_flops(mini, [512, 512]) < training_flops(mini, [1_024])
    windowed = check(ModelSettings, MINI_QWEN | {"sliding_window": 256})
    assert training_flops(windowed, [256]) == training_flops(mini, [256])
    assert training_flops(windowed, [1_024]) < training_flops(mini, [1_024])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"heads": 7}, "heads (7) must divide hidden_size (512)"),
        ({"heads": 8, "kv_heads": 3}, "kv_heads (3) must divide heads (8)"),
        ({"hidden_size": 24, "heads": 8}, "head_dim must be even"),
        ({"family": "llama", "qkv_bias": True}, "choose a family that fits (qwen2)"),
        ({"family": "qwen2", "qk_norm": True}, "choose a family that fits (qwen3)"),
        ({"family": "qwen2", "head_dim": 128}, "remove head_dim"),
        ({"family": "llama", "hidden_size": 100, "heads": 8, "head_dim": 16}, "to divide hidden_size"),
        ({"family": "llama", "sliding_window": 64}, "no sliding window"),
        ({"family": "gpt2"}, "should be 'qwen2'"),
        ({"layers": 0}, "greater than 0"),
        ({"hiden_size": 64}, "did you mean `hidden_size`"),
        ({"from": "folder", "layers": 2}, "remove layers"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3.0}}, "linear scaling has no beta_fast"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "needs original_max_positions"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "greater than or equal to 1"),
        (
            {"max_positions": 64, "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_positions": 128}},
            "beyond max_positions (64)",
        ),
    ],
)
def test_what_does_not_hold_together_or_cannot_be_exported_is_refused_at_once(
    given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError) as refused:
        check(ModelSettings, given)
    assert complaint in str(refused.value)


def test_a_vocabulary_larger_than_the_embedding_is_refused() -> None:
    require_rows(check(ModelSettings, MINI_QWEN), 151_665)
    with pytest.raises(UserError, match="to 152000 or more"):
        require_rows(check(ModelSettings, MINI_QWEN), 151_937)


def test_settings_do_not_import_torch() -> None:
    program = "import sys, danlu.model.settings, danlu.model.families.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
