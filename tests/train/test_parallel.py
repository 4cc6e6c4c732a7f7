"""One process or several: the same losses, and checkpoints that open at any world size."""

from __future__ import annotations

import shutil
from pathlib import Path

import heavy
import pytest
import signalled
import tiny
from safetensors.torch import load_file

from danlu.ledger.checkpoints import checkpoint_folder, list_checkpoints
from danlu.ledger.metrics import read_metrics
from danlu.train.preference_settings import DPOTrainSettings, KTOTrainSettings, RewardTrainSettings
from danlu.train.settings import SaveSettings, TrainSettings
from danlu.train.tune_settings import LoRA

COMMON = {"batch": 16, "rows": 2, "learning_rate": 3e-3, "save": SaveSettings(every=3, keep_last=9)}
RUNS: dict[str, TrainSettings] = {
    "adamw": TrainSettings(**COMMON, sharding="optimizer", evaluate_every=6, epochs=2),
    "recompute": TrainSettings(**COMMON, sharding="full", recompute=True, steps=6),
    "muon": TrainSettings(**COMMON, sharding="optimizer", optimizer="muon", steps=6),
    "bf16": TrainSettings(**COMMON, sharding="optimizer", precision="bf16", steps=6),
    "dpo": DPOTrainSettings(**{**COMMON, "rows": 4}, steps=6),
    "kto": KTOTrainSettings(**COMMON, steps=6),
    "reward": RewardTrainSettings(**COMMON, steps=6),
    "none": TrainSettings(**COMMON, sharding="none", steps=6),
    "gradients": TrainSettings(**COMMON, sharding="gradients", steps=6),
    "full": TrainSettings(**COMMON, sharding="full", steps=6),
    "none, bf16": TrainSettings(**COMMON, sharding="none", precision="bf16", steps=6),
    "gradients, bf16": TrainSettings(**COMMON, sharding="gradients", precision="bf16", steps=6),
    "full, bf16": TrainSettings(**COMMON, sharding="full", precision="bf16", steps=6),
    "lora": TrainSettings(**COMMON, sharding="optimizer", tune=LoRA(rank=2), steps=6),
    "8bit": TrainSettings(**COMMON, sharding="optimizer", optimizer_states="8bit", steps=6),
}


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs on two processes."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "heavy").mkdir()
    (folder / "heavy" / "data").symlink_to(folder / "data")
    for unit in ("document", "pair", "labelled"):  # laid down before several processes would do it at once
        tiny.stream(folder / "data", unit)
        tiny.stream(folder / "data" / "held_out", unit, 8, seed=9)
    tiny.finish(tiny.launch(2, [(folder / name, settings) for name, settings in RUNS.items()]))
    return folder


@pytest.fixture(scope="module")
def one(two: Path) -> Path:
    """All runs in this process."""
    for name, settings in RUNS.items():
        tiny.run(two / "one" / name, settings, tiny.unit_of(settings), data=two / "data")
    return two / "one"


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_compute_what_one_does(one: Path, two: Path, name: str) -> None:
    tolerance = 2e-2 if "bf16" in name else 1e-5
    assert losses(two / name) == pytest.approx(losses(one / name), rel=tolerance)
    mine, other = (
        load_file(list_checkpoints(run)[-1] / "state/parameters.safetensors") for run in (one / name, two / name)
    )
    assert mine.keys() == other.keys()
    # Muon rounds its iteration to bf16, so that float32's noise in a gradient may be seen in a weight.
    limit = 2e-2 if "bf16" in name else {"muon": 2e-3}.get(name, 1e-4)
    assert max(float((mine[key] - other[key]).abs().max()) for key in mine) < limit


def test_shards_are_rounded_as_whole_weights_are(two: Path) -> None:
    kept, *others = (losses(two / name) for name in ("none, bf16", "bf16", "gradients, bf16", "full, bf16"))
    for found in others:
        assert found[0] == kept[0] and found == pytest.approx(kept, rel=2e-4)


def test_held_out_losses_are_equal(one: Path, two: Path) -> None:
    found = [
        [row["held_out_loss"] for row in read_metrics(run / "adamw" / "metrics.jsonl") if "source" in row]
        for run in (one, two)
    ]
    assert len(found[0]) == 4 and found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("processes", [1, 3])
def test_saved_on_two_and_resumed_on_others(one: Path, two: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    shutil.copytree(two / "adamw", out)
    shutil.copytree(two / "data", tmp_path / "data")
    for path in list_checkpoints(out):
        if path > checkpoint_folder(out, 6):
            shutil.rmtree(path)
    if processes == 1:
        tiny.run(out, RUNS["adamw"])
    else:
        tiny.finish(tiny.launch(processes, [(out, RUNS["adamw"])]))
    assert losses(out) == pytest.approx(losses(one / "adamw"), rel=1e-5)
    assert len(losses(out)) == 12


def test_out_of_memory_on_one_process_of_two(one: Path, two: Path) -> None:
    """The step is repeated with fewer rows on both, and nothing else changes; also where it happens before a sum that
    all wait for (KTO's). Where the others wait for shards, the run says so and ends.
    """
    runs = {name: RUNS[name].model_copy(update={"rows": 8}) for name in ("adamw", "none", "kto", "full")}
    process = tiny.launch(2, [(two / "heavy" / name, of) for name, of in runs.items()], heavy.__file__)
    with pytest.raises(RuntimeError, match=r"process 1 of 2: .*in the midst of an exchange(.|\n)*rows=4") as ended:
        tiny.finish(process)
    for name in ("adamw", "none", "kto"):
        assert losses(two / "heavy" / name) == pytest.approx(losses(one / name), rel=1e-5)
    said = str(ended.value)
    assert said.count("rows a micro-batch: going on with 4") == said.count("going on with 2") == 3


def test_one_process_of_two_is_asked_to_stop(one: Path, two: Path) -> None:
    """Both end at the same step: without finishing the one in hand, but where each waits for the other's shards."""
    runs = {name: RUNS[name] for name in ("none", "kto", "full")}
    tiny.finish(tiny.launch(2, [(two / "heavy" / f"{n} asked", of) for n, of in runs.items()], signalled.__file__))
    for name in runs:
        out = two / "heavy" / f"{name} asked"
        calls, told = zip(*((out / f"told-{rank}").read_text().split(" ", 1) for rank in (0, 1)), strict=True)
        assert told[0] == told[1] and "goes on from there" in told[0], name
        steps = losses(out)
        assert int(calls[1]) == signalled.WHEN or name == "full"
        assert 0 < len(steps) < 6 and steps == pytest.approx(losses(one / name)[: len(steps)], rel=1e-5)
        assert list_checkpoints(out)[-1] == checkpoint_folder(out, len(steps))
