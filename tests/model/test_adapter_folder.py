"""Adapters on disk that are not what their settings say, or not of the base that they are opened over."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape, adapter_parts, attach, trained
from danlu.model.adapter_folder import Base, read_adapter, write_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.open import open_decoder
from danlu.model.parts import initialise, unfused_state
from danlu.model.settings import ModelSettings, in_family

SMALL = {"vocab_size": 61, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 4, "mlp_size": 48}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.1.self_attn.q_proj"
State = dict[str, Tensor]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    decoder = Decoder.empty(ModelSettings.model_validate({"family": "llama", "tie_embeddings": False} | SMALL))
    initialise(decoder, 0)
    save_decoder(decoder, tmp_path / "base")
    return tmp_path / "base"


def adapter_over(base: Path, folder: Path, **shape: Any) -> Path:
    decoder, made = load_decoder(base), AdapterShape(rank=4, alpha=8, **shape)
    attach(decoder, made, 0)
    with torch.no_grad():
        for _, _, adapter in trained(decoder):
            for pair in adapter.of():
                pair.b.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    folder.mkdir()
    write_adapter(decoder, folder, made, Base.of(base))
    return folder


def weights(change: Callable[[State], State]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / WEIGHTS
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file({name: value.contiguous() for name, value in change(load_file(path)).items()}, path, metadata)

    return edit


def config(**more: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return edit


def without(*names: str) -> Callable[[Path], None]:
    return weights(lambda state: {key: value for key, value in state.items() if not any(name in key for name in names)})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            without(Q),
            "no tensors for model.layers.1.self_attn.q_proj, which target_modules of adapter_config.json names",
        ),
        (without("layers.1."), "no tensors for model.layers.1.mlp.down_proj, "),
        (without("q_proj", "up_proj"), "model.layers.1.self_attn.q_proj and 1 more, which"),
        (without(f"{Q}.lora_B"), "model.layers.1.self_attn.q_proj.lora_A.weight has no fitting lora_B"),
        (without(f"{Q}.lora_A"), f"tensors that are not LoRA's on projections: {Q}.lora_B"),
        (config(target_modules=["q_proj"]), "does not name model.layers.0."),
        (config(target_modules="all-linear", exclude_modules=["v_proj"]), "does not name model.layers.0.self_attn.v_p"),
        (config(target_modules=None), "target_modules missing"),
        (config(target_modules="q_proj("), "target_modules or a pattern cannot be read"),
        (config(rank_pattern={"q_proj(": 3}), "target_modules or a pattern cannot be read"),
        (config(layers_to_transform=[0]), "does not name model.layers.1."),
        (config(r=8), "has rank 4, and r of adapter_config.json is 8"),
        (config(r="4"), "r '4' and lora_alpha 8 are no rank and no number"),
        (config(rank_pattern={"q_proj": 3}), "q_proj has rank 4, and r of adapter_config.json is 3"),
        (config(use_dora=True), "lacks DoRA's magnitudes"),
        (weights(lambda state: state | {f"{Q}.lora_magnitude_vector": torch.ones(32)}), "has DoRA's magnitudes"),
        (weights(lambda state: state | {f"{Q}.lora_A.weight": torch.ones(4)}), "has no fitting lora_B"),
        (weights(lambda state: {key: value.char() for key, value in state.items()}), "stored as integers (int8)"),
    ],
)
def test_tensors_and_settings_go_together(harm: Callable[[Path], None], said: str, base: Path, tmp_path: Path) -> None:
    adapter = adapter_over(base, tmp_path / "adapter")
    harm(adapter)
    with pytest.raises(UserError) as refused:
        open_decoder(adapter)
    assert said in str(refused.value) and str(adapter) in str(refused.value) and "→" in str(refused.value)


def as_bin(folder: Path, name: str, into: str) -> Path:
    state = load_file(folder / name)
    (folder / name).unlink()
    torch.save(state, folder / into)
    return folder


def test_an_adapter_of_tensors_in_a_bin_opens_and_one_that_acts_does_not(base: Path, tmp_path: Path) -> None:
    adapter = adapter_over(base, tmp_path / "adapter")
    wanted = {part.name: part.parameter for part in adapter_parts(open_decoder(adapter))}
    as_bin(adapter, WEIGHTS, "adapter_model.bin")
    found = {part.name: part.parameter for part in adapter_parts(open_decoder(adapter))}
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    state = torch.load(adapter / "adapter_model.bin", weights_only=True)
    torch.save(state | {"more": Path("x")}, adapter / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model.bin: holds more than tensors \(pathlib"):
        read_adapter(adapter)
    (adapter / "adapter_model.bin").rename(adapter / WEIGHTS)
    with pytest.raises(UserError, match="a pickle under the name of safetensors"):
        read_adapter(adapter)


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_base_that_differs_in_one_kind_of_projection_is_another(
    part: str, form: str, base: Path, tmp_path: Path
) -> None:
    adapter = adapter_over(base, tmp_path / "adapter")
    state = load_file(base / "model.safetensors")
    other = {name: value + 0.1 if part in name else value for name, value in state.items()}
    save_file(other, base / "model.safetensors")
    if form == "bin":
        as_bin(base, "model.safetensors", "pytorch_model.bin")
    with pytest.raises(UserError, match="this adapter was trained on other weights"):
        open_decoder(adapter)


def test_the_mark_is_of_the_weights_and_not_of_their_form(base: Path, tmp_path: Path) -> None:
    marks = Base.of(base).marks
    decoder = load_decoder(base)
    save_decoder(decoder, tmp_path / "shards", shard_bytes=5_000)
    save_decoder(decoder, tmp_path / "half", dtype=torch.bfloat16)
    for family in ("baichuan", "internlm2"):
        decoder.settings = in_family(decoder.settings, family)
        save_decoder(decoder, tmp_path / family)
    as_bin(shutil.copytree(base, tmp_path / "bin"), "model.safetensors", "pytorch_model.bin")
    for form in ("shards", "half", "baichuan", "internlm2", "bin"):
        assert Base.of(tmp_path / form).marks == marks, form


def test_adapters_with_the_mark_of_earlier_versions(base: Path, tmp_path: Path) -> None:
    """That of `o` and `down` alone, of safetensors; as it was made then."""
    adapter, digests = adapter_over(base, tmp_path / "adapter"), []
    for name, value in unfused_state(load_decoder(base)).items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            rows = value[[0, -1]].to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
            digests.append(hashlib.sha256(rows).hexdigest())
    older = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    for mark in (older, "", None):
        metadata = {} if mark is None else {"base": mark}
        save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS, metadata)
        open_decoder(adapter)
    save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS, {"base": "0" * 64})
    with pytest.raises(UserError, match="trained on other weights"):
        open_decoder(adapter)
