"""Loading: how much memory, from which files, and what is never done with them."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.ledger.errors import UserError
from danlu.model import pour
from danlu.model.decoder import Decoder
from danlu.model.families.config import read_config
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.parts import initialise, unfused_state
from danlu.model.settings import ModelSettings

SMALL = {"vocab_size": 61, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 48}


def decoder(**more: Any) -> Decoder:
    made = Decoder.empty(ModelSettings.model_validate({"family": "llama", "tie_embeddings": False} | SMALL | more))
    initialise(made, 0)
    return made


def as_bin(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda state: state, **how: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(change(unfused_state(decoder())), folder / "pytorch_model.bin", **how)


class Acts:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran", "w"))


MEASURED = """
import ctypes, json, sys, torch
from pathlib import Path
from danlu.model.folder import load_decoder
torch.set_num_threads(1)
def kept(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
load_decoder(Path(sys.argv[1]))  # what torch imports when first asked
grown = {}
for folder in sys.argv[2:]:
    for dtype in ("float32", "bfloat16"):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = kept("VmRSS")
        decoder = load_decoder(Path(folder), getattr(torch, dtype))
        grown[f"{Path(folder).name} {dtype}"] = kept("VmHWM") - before
        del decoder
print(json.dumps(grown))
"""


def test_the_host_holds_one_file_beside_the_model(tmp_path: Path) -> None:
    shape = {"vocab_size": 8_000, "hidden_size": 1024, "layers": 4, "heads": 8, "kv_heads": 8, "mlp_size": 2048}
    large = Decoder.empty(ModelSettings.model_validate({"family": "llama", "tie_embeddings": False} | shape))
    for weight in large.parameters():
        weight.data.fill_(0.5)
    save_decoder(decoder(), tmp_path / "warm")
    save_decoder(large, tmp_path / "safetensors", shard_bytes=40_000_000)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_bytes((tmp_path / "safetensors" / "config.json").read_bytes())
    index = json.loads((tmp_path / "safetensors" / "model.safetensors.index.json").read_text())
    state, where = unfused_state(large), {}
    for file in sorted(set(index["weight_map"].values())):
        names = [name for name, place in index["weight_map"].items() if place == file]
        where |= dict.fromkeys(names, file.replace("safetensors", "bin"))
        torch.save({name: state[name].clone() for name in names}, tmp_path / "bin" / where[names[0]])
    (tmp_path / "bin" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    sizes = [path.stat().st_size for path in (tmp_path / "bin").glob("*.bin")]
    assert len(sizes) >= 5 and sum(sizes) > 230_000_000
    run = [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in ("warm", "safetensors", "bin"))]
    grown = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    count = sum(weight.numel() for weight in large.parameters())
    for case, bytes_more in grown.items():
        model = count * (2 if "bfloat16" in case else 4)
        assert model < bytes_more < model + max(sizes) + 20_000_000, case


@pytest.mark.parametrize("legacy", [False, True])
def test_bins_are_read_with_tensors_alone(legacy: bool, tmp_path: Path) -> None:
    save_decoder(decoder(), tmp_path / "model")
    as_bin(tmp_path / "model", _use_new_zipfile_serialization=not legacy)
    wanted = unfused_state(decoder())
    assert all(
        torch.equal(wanted[name], weight) for name, weight in unfused_state(load_decoder(tmp_path / "model")).items()
    )


def disguised(folder: Path) -> None:
    state = unfused_state(decoder())
    torch.save(state, folder / "model.safetensors")


def plain_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": Acts()}))


def cut(folder: Path) -> None:
    as_bin(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-200])


def elsewhere(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (disguised, "a pickle under the name of safetensors"),
        (plain_pickle, "a pickle under the name of safetensors"),
        (lambda folder: as_bin(folder, lambda state: state | {"extra": Acts()}), "holds more than tensors ("),
        (lambda folder: as_bin(folder, lambda state: Acts()), "holds more than tensors"),
        (
            lambda folder: as_bin(folder, lambda state: Acts(), _use_new_zipfile_serialization=False),
            "more than tensors",
        ),
        (lambda folder: as_bin(folder, lambda state: [1, 2]), "no tensors by name"),
        (lambda folder: as_bin(folder, lambda state: state | {"extra": torch.ones(1)}), "weights unknown: 1 (extra)"),
        (
            lambda folder: as_bin(folder, lambda state: state | {"lm_head.weight": state["lm_head.weight"].char()}),
            "lm_head.weight in int8",
        ),
        (cut, "damaged or cut short"),
        (elsewhere, "outside the folder"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "weights.pt"), "weights.pt is under no name"),
    ],
)
def test_files_that_are_not_weights_are_refused_and_never_run(
    harm: Callable[[Path], Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_decoder(decoder(), tmp_path / "model")
    harm(tmp_path / "model")
    with pytest.raises(UserError) as refused:
        load_decoder(tmp_path / "model")
    assert complaint in str(refused.value) and "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_too_little_memory_is_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_decoder(decoder(), tmp_path / "model")
    monkeypatch.setattr(pour, "free_bytes", lambda device: 10_000)
    monkeypatch.setattr("danlu.model.folder.pour", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=r"take 0.0 GB in float32 and 0.0 GB are free on cpu"):
        load_decoder(tmp_path / "model")


def test_what_is_sent_through_two_buffers_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's way, with stand-ins for what needs one: pinned memory, events, the device."""

    class Event:
        def synchronize(self) -> None: ...
        def record(self) -> None: ...

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **more: empty(*size, **more))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(pour, "_STAGE", 96)
    lane = pour._Lane(torch.device("cpu"))
    for value in (
        torch.randn(7, 33),
        torch.randn(5, 48).to(torch.bfloat16),
        torch.randn(48),
        torch.randn(3, 1),
        torch.randn(0, 4),
        torch.randn(6, 20, dtype=torch.float64).t(),
    ):
        there = lane.send(value)
        assert there.dtype == value.dtype and torch.equal(there, value)


def test_free_memory_is_a_plausible_number() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < pour.free_bytes(torch.device("cpu")) <= total


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 8},
            "nearest family is mistral, and config.json differs from it in num_local_experts: 8 means nothing to",
        ),
        ({"model_type": "orion", "bias": True, "norm": "layer"}, "norm: 'layer' means nothing to"),
        ({"model_type": "llama4", "mlp_bias": True}, "mlp_bias: True where llama has False"),
        ({"model_type": "qwen3_next", "hidden_act": "relu2"}, "hidden_act: 'relu2' where qwen3 has 'silu'"),
        ({"model_type": "gpt2", "n_embd": 64, "hidden_size": None}, "no hidden_size; n_embd: 64 means nothing to"),
        ({"model_type": "llama-of-mine"}, "nearest family is llama, and config.json says nothing that differs"),
        (
            {"model_type": "phi3", "partial_rotary_factor": 0.5, "return_dict": True},
            "config.json differs from it in partial_rotary_factor: 0.5\n",
        ),
        (
            {
                "model_type": "phi3",
                "partial_rotary_factor": 0.75,
                "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
                "quantization_config": {"bits": 4, "quant_method": "gptq"},
            },
            "differs from it in quantization_config: weights quantised by gptq; partial_rotary_factor: 0.75; "
            "rotary scaling 'longrope' with long_factor, short_factor is not supported\n",
        ),
        (
            {"model_type": "gemma2", "layer_types": ["sliding_attention", "full_attention"]},
            "layer_types: full_attention, sliding_attention",
        ),
        ({"model_type": "mine", "auto_map": {"AutoModel": "code.M"}}, "code in the folder (auto_map) is never run"),
        ({}, "model_type None is not supported"),
    ],
)
def test_an_unknown_family_is_told_what_differs_from_the_nearest(
    config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    (tmp_path / "code.py").write_text("raise SystemExit('code of the folder was run')")
    (tmp_path / "config.json").write_text(json.dumps(shape | {"vocab_size": 61, "hidden_act": "silu"} | config))
    with pytest.raises(UserError) as refused:
        read_config(tmp_path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization_config": {"bits": 4, "quant_method": "awq"}}, "weights quantised by awq, which danlu does not"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is arithmetic that this decoder does not do"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "rotary scaling 'default' with partial_rotary_factor is not supported",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
            "rotary scaling 'default' with full_attention, sliding_attention is not supported",
        ),
    ],
)
def test_a_known_family_with_other_arithmetic_is_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    (tmp_path / "config.json").write_text(json.dumps(shape | {"vocab_size": 61, "model_type": "qwen2"} | config))
    with pytest.raises(UserError) as refused:
        read_config(tmp_path)
    assert said in str(refused.value)
