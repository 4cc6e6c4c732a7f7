"""The last micro-batch of a step has fewer rows: the same loss and gradient, less computed, few compilations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from danlu.ledger.metrics import read_metrics
from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.reward_head import reward_decoder
from danlu.tokens.batch import Batch
from danlu.tokens.stream import Step, Stream
from danlu.train.network import Network, build, in_its_form
from danlu.train.objectives.table import objective_of
from danlu.train.parallel import World
from danlu.train.preference_settings import (
    DPOTrainSettings,
    KTOTrainSettings,
    ORPOTrainSettings,
    RewardTrainSettings,
)
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA, QLoRA

CPU = torch.device("cpu")
ROWS = 8
EXAMPLES = {"document": 21, "pair": 18, "labelled": 36}  # a whole micro-batch and some rows
WAYS: dict[str, tuple[TrainSettings, dict[str, Any]]] = {
    "next token": (TrainSettings(), {}),
    "recompute": (TrainSettings(recompute=True), {}),
    "alibi": (TrainSettings(), {"positions": "alibi", "family": "baichuan"}),
    "lora": (TrainSettings(tune=LoRA(rank=2)), {}),
    "qlora": (TrainSettings(tune=QLoRA(rank=2)), {}),
    "dpo": (DPOTrainSettings(), {}),
    "orpo": (ORPOTrainSettings(), {}),
    "kto": (KTOTrainSettings(), {}),
    "reward": (RewardTrainSettings(), {}),
}


def network_of(settings: TrainSettings, shape: dict[str, Any]) -> Network:
    dtype = torch.float32 if isinstance(settings.tune, LoRA) else torch.float64
    made = Decoder.empty(tiny.SHAPE.model_copy(update=shape), dtype)
    initialise(made, 3)
    made = reward_decoder(made, 3).to(dtype) if isinstance(settings, RewardTrainSettings) else made
    return build(made, settings, World(0, 1, CPU), dtype)[0]


def stream_of(settings: TrainSettings, folder: Path) -> Stream:
    made = tiny.stream(folder, tiny.unit_of(settings))
    random = np.random.default_rng(0)
    return made.with_columns({"reference": [random.normal(-50, 5, one.documents).astype("f4") for one in made.sets]})


def computed(network: Network, settings: TrainSettings, step: Step) -> dict[str, torch.Tensor]:
    """Sums and gradients of a step, its micro-batches one after the other."""
    objective = objective_of(settings)
    objective = objective.prepared(network, [one.torch() for one in step.aside], lambda values: values)
    network.zero_grad()
    found: dict[str, torch.Tensor] = {}
    for micro in step.micro:
        loss, sums = objective.compute(network, micro.torch(), 1 / objective.normaliser(step))
        loss.backward()
        for name, value in zip(objective.sums, sums, strict=True):
            found[name] = found.get(name, torch.zeros(())) + value.double()
    return found | {name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("way", WAYS)
def test_fewer_rows_change_neither_sums_nor_gradients(way: str, tmp_path: Path) -> None:
    """Against every example by itself, and against one micro-batch of all."""
    settings, shape = WAYS[way]
    stream, network = stream_of(settings, tmp_path), network_of(settings, shape)
    count = EXAMPLES[stream.unit]
    few = stream.step(5, count, rows=ROWS)
    held = [len(micro.tokens) for micro in few.micro]
    assert held[0] == ROWS > held[-1] and len(held) > 1
    least = stream.with_any_rows().step(5, count, rows=ROWS)
    assert least.padding <= few.padding < 0.9 - few.tokens / (len(held) * ROWS * tiny.LENGTH)
    expected = computed(network, settings, stream.step(5, count, rows=stream.least_rows))
    assert len(expected) > len(objective_of(settings).sums)
    for step in (few, least, stream.step(5, count, rows=64)):
        found = computed(network, settings, step)
        for name, value in expected.items():
            torch.testing.assert_close(found[name].double(), value.double(), rtol=1e-5, atol=1e-6)


def test_a_run_says_what_it_computed(tmp_path: Path) -> None:
    tiny.run(tmp_path / "run", TrainSettings(batch=21, rows=ROWS, steps=4), data=tmp_path / "data")
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "useful_share" in row]
    steps = list(tiny.stream(tmp_path / "data").with_any_rows().steps(0, 21, rows=ROWS))[:4]
    assert [row["useful_share"] for row in rows] == pytest.approx([1 - step.padding for step in steps])
    computed = [sum(batch.tokens.size for batch in step.micro) for step in steps]
    assert [step.tokens / (1 - step.padding) for step in steps] == pytest.approx(computed)


def crosses(batch: Batch[np.ndarray]) -> bool:
    rows = batch.document.reshape(batch.tokens.shape)
    return bool((rows[1:, 0] == rows[:-1, -1]).any())


@pytest.fixture
def graphs() -> Iterator[Any]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "how", [{}, {"tune": LoRA(rank=2)}, {"tune": LoRA(rank=2), "recompute": True}, {"recompute": True}]
)
def test_a_block_is_compiled_once_for_each_of_three_shapes(how: dict[str, Any], tmp_path: Path, graphs: Any) -> None:
    """A shape that comes again finds what was compiled for it; none is compiled for any number of rows. A CPU has two
    forms of masks besides: with documents that cross into the next row, and without.
    """
    settings = TrainSettings(**how, compile=False)
    network, plain = (network_of(settings, {}) for _ in range(2))
    network.decoder.compile_blocks("aot_eager")
    stream = in_its_form(tiny.stream(tmp_path), TrainSettings(compile=True), tiny.SHAPE, CPU)
    steps = [stream.step(start, count, rows=ROWS) for start, count in ((0, 3), (20, 20)) * 2]
    batches = [batch for step in steps for batch in step.micro]
    assert {len(batch.tokens) for batch in batches} == {2, 4, 8}
    forms = {(len(batch.tokens), crosses(batch)) for batch in batches}
    for number, step in enumerate(steps):
        found, expected = (computed(one, settings, step) for one in (network, plain))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
        if number == len(steps) // 2 - 1:
            before = graphs["unique_graphs"]
    assert graphs["unique_graphs"] == before == len(forms)
    assert not torch._dynamo.utils.counters["graph_break"]


def test_without_compilation_any_number_of_rows(tmp_path: Path) -> None:
    stream = tiny.stream(tmp_path)
    few, least = (in_its_form(stream, TrainSettings(compile=compiled), tiny.SHAPE, CPU) for compiled in (True, None))
    found = [{len(one.step(0, count, rows=ROWS).micro[-1].tokens) for count in range(2, 40)} for one in (few, least)]
    assert found == [{2, 4, 8}, set(range(1, 9))]
