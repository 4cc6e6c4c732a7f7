"""What is trained: layers, adapters, adapters over 4 bits; resumed, recomputed, on several processes, as folders."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from danlu.ledger.checkpoints import checkpoint_folder, list_checkpoints
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.model.folder import load_decoder
from danlu.model.open import open_decoder
from danlu.model.parts import unfused_state
from danlu.train import parallel
from danlu.train.loop import train
from danlu.train.network import build
from danlu.train.objectives.next_token import NextToken
from danlu.train.settings import SaveSettings, TrainSettings
from danlu.train.tune_settings import Full, Layers, LoRA, QLoRA, trained_parameters

COMMON = {"batch": 8, "rows": 2, "learning_rate": 3e-2, "steps": 6, "save": SaveSettings(every=3, keep_last=9)}
KINDS: dict[str, TrainSettings] = {
    "lora": TrainSettings(**COMMON, tune=LoRA(rank=4)),
    "dora": TrainSettings(**COMMON, tune=LoRA(rank=4, dora=True, targets=["q_proj", "v_proj"]), sharding="full"),
    # At a higher rate bf16 alone moves weights further than the limit, as other rows a micro-batch do.
    "bf16": TrainSettings(
        **{**COMMON, "learning_rate": 5e-3}, tune=LoRA(rank=4, b_rate=4.0), precision="bf16", recompute=True
    ),
    "qlora": TrainSettings(**COMMON, tune=QLoRA(rank=4), optimizer_states="paged", sharding="none"),
    "pissa": TrainSettings(**COMMON, tune=LoRA(rank=4, start="pissa"), sharding="none"),
    "layers": TrainSettings(**COMMON, tune=Layers(last=1)),
}


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs on two processes."""
    folder = tmp_path_factory.mktemp("two")
    tiny.stream(folder / "data")
    tiny.stream(folder / "data" / "held_out", examples=8, seed=9)
    tiny.finish(tiny.launch(2, [(folder / name, settings) for name, settings in KINDS.items()]))
    return folder


@pytest.fixture(scope="module")
def one(two: Path) -> Path:
    """All runs in this process."""
    for name, settings in KINDS.items():
        tiny.run(two / "one" / name, settings, data=two / "data")
    return two / "one"


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_compute_what_one_does(one: Path, two: Path, name: str) -> None:
    found = losses(one / name)
    assert losses(two / name) == pytest.approx(found, rel=2e-2 if name == "bf16" else 1e-5)
    assert min(found) < found[0] - 0.05, "it learns"
    mine, other = (
        load_file(list_checkpoints(run)[-1] / "state/parameters.safetensors") for run in (one / name, two / name)
    )
    assert mine.keys() == other.keys()
    assert max(float((mine[key] - other[key]).abs().max()) for key in mine) < (2e-2 if name == "bf16" else 1e-4)


@pytest.mark.parametrize("name", [*KINDS, "dropout"])
def test_resumed_is_bit_equal(one: Path, tmp_path: Path, name: str) -> None:
    settings = KINDS.get(name, TrainSettings(**COMMON, tune=LoRA(rank=4, dropout=0.2), neftune=5.0))
    shutil.copytree(one.parent / "data", tmp_path / "data")
    whole = one / name
    if name == "dropout":
        whole = tmp_path / "whole"
        tiny.run(whole, settings, data=tmp_path / "data")
        assert losses(whole) != losses(one / "lora")
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(checkpoint_folder(out, 6))
    last = tiny.run(out, settings, data=tmp_path / "data")
    assert losses(out) == losses(whole)
    files = ["state/parameters.safetensors", "state/optimizer.safetensors"]
    for file in [*files, "model.safetensors" if name == "layers" else "adapter_model.safetensors"]:
        mine, other = load_file(last / file), load_file(checkpoint_folder(whole, 6) / file)
        assert all(torch.equal(mine[key], other[key]) for key in other)


@pytest.mark.parametrize("name", ["lora", "dora", "pissa"])
def test_a_checkpoint_is_a_peft_folder_over_its_base(one: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
        from transformers import AutoModelForCausalLM
    folder = list_checkpoints(one / name)[-1]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(one / name / "base")
    assert not (folder / "model.safetensors").exists() and (folder / "tokenizer.json").is_file()
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    tokens = torch.arange(3, 20)[None]
    theirs = peft.PeftModel.from_pretrained(base, folder)(tokens).logits
    from danlu.infer.cache import Causal

    decoder = open_decoder(folder)
    ours = decoder.head.logits(decoder(tokens, torch.arange(17)[None], Causal()))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_only_the_last_layers_move(one: Path) -> None:
    folder = list_checkpoints(one / "layers")[-1]
    before, after = unfused_state(tiny.decoder()), unfused_state(load_decoder(folder))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("model.layers.1.", "model.norm")) for name in moved)
    assert load_file(folder / "state/parameters.safetensors").keys() == {
        name for name in before if name.startswith(("model.layers.1.", "model.norm"))
    }


@pytest.mark.parametrize("how", [Full(), Layers(last=1), LoRA(rank=3), LoRA(rank=3, dora=True), QLoRA(rank=5)])
def test_what_is_frozen_has_no_master_and_no_gradient(how: Any) -> None:
    settings = TrainSettings(tune=how, precision="bf16", compile=False)
    network, masters = build(tiny.decoder(), settings, parallel.World(0, 1, torch.device("cpu")))
    frozen = {name for name, value in network.decoder.named_parameters() if not value.requires_grad}
    assert masters.frozen.keys() == frozen and not frozen & masters.parameters.keys()
    assert {value.dtype for value in masters.parameters.values()} == {torch.float32}
    assert {value.dtype for value in network.decoder.parameters()} == {torch.bfloat16}
    count = sum(value.numel() for value in masters.parameters.values())
    biases_and_norms = 400
    assert abs(count - trained_parameters(how, tiny.SHAPE)) <= (biases_and_norms if isinstance(how, Layers) else 0)


def test_an_adapter_is_trained_on_or_merged(one: Path, two: Path, tmp_path: Path) -> None:
    folder = list_checkpoints(one / "lora")[-1]
    stream = tiny.stream(two / "data")

    def go(how: Any, out: str) -> Path:
        settings = TrainSettings(**{**COMMON, "steps": 2}, tune=how)
        return train(settings, NextToken(), open_decoder(folder), tiny.tokenizer(), None, stream, {}, tmp_path / out)

    first = losses(one / "lora")[0]
    assert losses(go(LoRA(rank=4), "on").parents[1])[0] < first - 0.05
    assert losses(go(Full(), "full").parents[1])[0] < first - 0.05
    with pytest.raises(UserError, match="has rank 4"):
        go(LoRA(rank=5), "other")


def test_another_adapter_does_not_resume(one: Path, tmp_path: Path) -> None:
    shutil.copytree(one.parent / "data", tmp_path / "data")
    shutil.copytree(one / "lora", tmp_path / "run")
    with pytest.raises(UserError, match="of another model"):
        tiny.run(tmp_path / "run", TrainSettings(**COMMON, tune=LoRA(rank=4, alpha=3)), data=tmp_path / "data")


def test_b_has_its_own_rate(tmp_path: Path, one: Path) -> None:
    moved = []
    for ratio in (1.0, 16.0):
        settings = TrainSettings(**{**COMMON, "steps": 1, "learning_rate": 1e-3}, tune=LoRA(rank=4, b_rate=ratio))
        last = tiny.run(tmp_path / str(ratio), settings, data=one.parent / "data")
        state = load_file(last / "state/parameters.safetensors")
        moved.append(max(float(value.abs().max()) for name, value in state.items() if name.endswith(".b")))
    assert moved[1] == pytest.approx(16 * moved[0], rel=1e-3)


def test_noise_is_of_the_documents_length() -> None:
    settings = TrainSettings(neftune=5.0, compile=False)
    network, _ = build(tiny.decoder(), settings, parallel.World(0, 1, torch.device("cpu")))
    cu, document = torch.tensor([0, 4, 16]), torch.tensor([[0] * 4 + [1] * 12])
    bound = network._noise(cu.diff(), document)[0]
    assert bound[:4].tolist() == pytest.approx([5 / (4 * 16) ** 0.5] * 4)
    assert bound[4:].tolist() == pytest.approx([5 / (12 * 16) ** 0.5] * 12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tune": {"method": "lora"}, "optimizer": "muon"}, "muon"),
        ({"tune": {"method": "lora", "start": "pissa", "dora": True}}, "choose one"),
        ({"tune": {"method": "layers", "rank": 3}}, "rank"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainSettings.model_validate(given)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (LoRA(targets=["W_pick"]), "choose of down_proj, .*all-linear"),
        (Layers(last=3), "2 layers"),
        (LoRA(start="pissa", rank=99), "rank 99 is beyond"),
    ],
)
def test_targets_that_are_not_there(how: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(tiny.decoder(), TrainSettings(tune=how), parallel.World(0, 1, torch.device("cpu")))
