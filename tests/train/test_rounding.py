"""Weights are rounded at random: unbiased, alike everywhere, and what is saved is what was computed with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from danlu.ledger.metrics import read_metrics
from danlu.ledger.signals import Stop
from danlu.model.folder import load_decoder
from danlu.model.parts import unfused_state
from danlu.train.checkpoint import PARAMETERS, restore, take_snapshot, write_checkpoint
from danlu.train.held_out import measure
from danlu.train.network import block_matrices, build
from danlu.train.objectives.next_token import NextToken
from danlu.train.optim import Optimizer
from danlu.train.parallel import World
from danlu.train.precision import DTYPES, Masters
from danlu.train.rounding import PERIOD, round_into, rounded
from danlu.train.settings import TrainSettings

HERE = World(0, 1, torch.device("cpu"))
FORMATS = {torch.bfloat16: 8, torch.float16: 11}


def neighbours(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The greatest value of a format below, or at, each of x, and the least above it, towards and away from 0."""
    fraction, exponent = torch.frexp(x.double())
    grid = 2.0 ** FORMATS[dtype]
    below = torch.ldexp(torch.trunc(fraction * grid) / grid, exponent)
    above = torch.ldexp((torch.trunc(fraction * grid) + torch.sign(fraction)) / grid, exponent)
    return below, above


@pytest.mark.parametrize("dtype", FORMATS)
@settings(max_examples=30)
@given(shape=st.lists(st.integers(0, 40), max_size=3), seed=st.integers(0, 99), updates=st.integers(0, 10**6))
def test_a_weight_becomes_one_of_its_neighbours(dtype: torch.dtype, shape: list[int], seed: int, updates: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    x = torch.where(x.abs() < 1e-4, 0.5, x)  # above fp16's subnormals
    got = rounded(x, dtype, "weight", updates)
    below, above = neighbours(x, dtype)
    assert got.dtype == dtype and got.shape == x.shape
    assert ((got.double() == below) | (got.double() == above)).all()
    assert torch.equal(rounded(got.float(), dtype, "other", updates), got), "what needs no rounding stays"


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_mean_over_updates_is_the_weight(dtype: torch.dtype) -> None:
    x = torch.linspace(0.02, 0.0205, 400)
    mean = torch.stack([rounded(x, dtype, "weight", number).double() for number in range(2_000)]).mean(0)
    below, above = neighbours(x, dtype)
    assert ((mean - x.double()).abs() / (above - below) < 5 * 0.5 / 2_000**0.5).all()


def test_the_mean_over_places_is_the_weight() -> None:
    x = torch.full((3 * PERIOD + 1_000,), 0.02).bfloat16().float() + 1e-6
    got = rounded(x, torch.bfloat16, "weight", 7).double()
    assert float(got[:PERIOD].mean()) == pytest.approx(float(x[0]), abs=1e-8)
    assert torch.equal(got[:1_000], got[3 * PERIOD :]), "noise has this period, whatever is rounded at once"
    other = rounded(x, torch.bfloat16, "weight", 8).double()
    assert 0.9 < float((got == other).double().mean()) < 1.0, "and is another after each update"


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_is_no_number_stays_so(dtype: torch.dtype) -> None:
    bits = [0x7FFFFFFF, 0x7FC00000, -0x400000, 0x7F800000, -0x800000, 0, -(2**31)]
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    for updates in range(20):
        got = rounded(x, dtype, "weight", updates)
        assert got[:3].isnan().all() and torch.equal(got[3:], x[3:].to(dtype))


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton, which torch's CUDA builds bring, is not here")
def test_the_kernel_has_the_same_bits() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("rounded_by_kernel.py"))],
        env=os.environ if torch.cuda.is_available() else {**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == {"torch.bfloat16": True, "torch.float16": True}


def test_other_formats_round_to_nearest() -> None:
    x, target = torch.randn(100, dtype=torch.float64), torch.empty(100)
    round_into({"weight": target}, {"weight": x}, 0)
    assert torch.equal(target, x.float())


def test_small_updates_move_what_is_computed_with() -> None:
    layer = nn.Linear(300, 300, bias=False).bfloat16().float()  # as of a model that was saved in bf16
    before = layer.weight.detach().double().sum()
    masters = Masters(layer, torch.bfloat16)
    assert layer.weight.detach().double().sum() == before
    for updates in range(1, 11):
        masters.parameters["weight"].add_(1e-6)
        masters.publish(updates)
    moved = (layer.weight.detach().double().sum() - before) / 300**2
    assert float(moved) == pytest.approx(1e-5, rel=0.1), "to nearest, a tenth of it"


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_what_is_saved_is_what_was_computed_with(tmp_path: Path, precision: Any) -> None:
    settings = TrainSettings(epochs=1.0, batch=8, precision=precision)
    network, masters = build(tiny.decoder(), settings, HERE)
    optimizer = Optimizer(settings, masters.parameters, block_matrices(network.decoder))
    generator = torch.Generator().manual_seed(5)
    for master in masters.parameters.values():
        master.grad = torch.randn(master.shape, generator=generator)
    optimizer.step(1e-3)
    masters.publish(optimizer.updates)
    state = {"step": 1, "epoch": 0.1, "held_out_loss": None, "fingerprints": {}}
    snapshot, dtype = take_snapshot(masters, optimizer, HERE), DTYPES[precision]
    path = write_checkpoint(tmp_path, snapshot, state, tiny.decoder(), None, (), dtype)
    saved, kept = load_file(path / "model.safetensors"), load_file(path / PARAMETERS)
    for name, computed in unfused_state(network.decoder).items():
        assert torch.equal(saved[name], computed), name
        assert kept[name].dtype == torch.float32 and (kept[name] - computed.float()).abs().max() < 2e-2
    resumed, others = build(tiny.decoder(seed=8), settings, HERE)
    restore(path, tiny.decoder(), others, Optimizer(settings, others.parameters, {}), 1)
    for name, computed in network.decoder.state_dict().items():
        assert torch.equal(resumed.decoder.state_dict()[name], computed), name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_is_saved_has_the_loss_that_the_run_measured(tmp_path: Path, precision: Any) -> None:
    settings = TrainSettings(batch=8, learning_rate=1e-4, rows=4, steps=6, precision=precision)
    last = tiny.run(tmp_path / "run", settings)
    (told,) = {
        row["held_out_loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "held_out_loss" in row
    }
    network, _ = build(load_decoder(last, DTYPES[precision]), settings, HERE)
    streams = {"counting": tiny.stream(tmp_path / "data" / "held_out", "document", 8, seed=9).with_any_rows()}
    found = measure(network, NextToken(), streams, 8, 4, HERE, Stop())
    assert found["counting"]["held_out_loss"] == told
