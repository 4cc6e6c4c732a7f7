"""What one run does besides going on: bad steps, metrics, trackers, formats."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from heavy import heavy

from danlu.ledger.checkpoints import list_checkpoints
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.ledger.metrics import read_metrics, read_schema
from danlu.tokens.settings import LossLimits
from danlu.tokens.stream import Step
from danlu.train.loop import train
from danlu.train.meter import PHASES
from danlu.train.objectives.next_token import NextToken
from danlu.train.preference_settings import DPOTrainSettings
from danlu.train.settings import SaveSettings, TrainSettings

FAST = {"batch": 8, "learning_rate": 1e-2, "rows": 4, "steps": 6}


class Explodes(NextToken):
    """Next-token loss that is infinite in chosen micro-batches."""

    def __init__(self, when: range) -> None:
        self.when, self.calls = when, 0

    def compute(self, network: Any, batch: Any, factor: float = 1.0) -> Any:
        loss, sums = super().compute(network, batch, factor)
        self.calls += 1
        if self.calls - 1 in self.when:
            loss = loss * math.inf
        return loss, [loss.detach(), *sums[1:]]


def go(out: Path, objective: NextToken, **more: Any) -> Path:
    settings = TrainSettings(**{**FAST, **more})
    stream = tiny.stream(out.parent / "data", epochs=settings.epochs)
    return train(settings, objective, tiny.decoder(), tiny.tokenizer(), None, stream, {}, out, device="cpu")


def micro_batches(out: Path) -> int:
    stream = tiny.stream(out.parent / "data")
    return len(stream.step(0, 8, rows=4).micro)


def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    first = micro_batches(tmp_path / "run")
    go(tmp_path / "run", Explodes(range(first, first + 1)))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["non_finite"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert rows[1]["loss"] is None and all(row["loss"] is not None for row in rows[2:])


def test_too_many_of_them_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite for 3 steps in a row(.|\n)*skip="):
        go(tmp_path / "run", Explodes(range(4, 99)), max_bad_steps=3)


def test_a_run_of_which_no_step_was_applied_is_an_error_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for _ in range(2):  # nor is one there that the same command would go on from
        with pytest.raises(UserError, match=r"run: none of the 6 steps was applied(.|\n)*learning_rate"):
            go(out, Explodes(range(99)), save={"every": 2})
        assert not list_checkpoints(out) and not (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("tune", "precision"), [("full", "float32"), ("full", "fp16"), ("lora", "bf16"), ("qlora", "bf16")]
)
def test_weights_that_are_no_numbers_are_named_at_the_first_step(tmp_path: Path, tune: str, precision: str) -> None:
    settings = TrainSettings(**FAST, tune={"method": tune}, precision=precision)
    broken = tiny.decoder()
    wrong = {part.on_disk: part for part in broken.parts()}["model.layers.1.self_attn.k_proj.weight"]
    wrong.write(wrong.parameter.data, torch.full(wrong.shape, 1e5 if precision == "fp16" else math.nan))
    stream = tiny.stream(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"^the decoder: [13] of the weights hold NaN .*model\.layers\.1\.self_attn\.k_proj\.weight"
    ) as told:
        train(settings, NextToken(), broken, tiny.tokenizer(), None, stream, {}, tmp_path / "run", device="cpu")
    assert "copy or download" in str(told.value) and len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 1


def test_batches_of_which_all_was_dropped_repeat_nothing_that_was_due(tmp_path: Path) -> None:
    class Dropped(NextToken):
        def normaliser(self, step: Step) -> float:
            return 0.0 if step.consumed in (24, 32) else super().normaliser(step)

    out = tmp_path / "run"
    tiny.run(out, TrainSettings(**FAST, evaluate_every=2), objective=Dropped())
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("source") == "all"] == [2, 4]
    assert [row["consumed"] for row in rows if "loss" in row] == [8, 16, 40, 48]


def test_metrics_have_a_schema_and_the_manifest_the_outcome(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny.run(out, TrainSettings(**FAST))
    rows, schema = read_metrics(out / "metrics.jsonl"), read_schema(out / "metrics.jsonl")
    assert len(rows) == 8, "6 steps, one held-out source, all of them"
    assert {name for row in rows for name in row} - {"step"} <= schema.keys()
    assert rows[0]["loss"] == pytest.approx(math.log(tiny.VOCABULARY), rel=0.1)
    shares = {phase: rows[1][f"time_{phase}"] for phase in PHASES}
    assert sum(shares.values()) == pytest.approx(1.0) and min(shares["forward"], shares["backward"]) > 0.05
    assert 0 < rows[0]["useful_share"] <= 1 and rows[0]["tokens_per_second"] > 0
    nats, size = rows[0]["loss"], tiny.stream(out.parent / "data").step(0, 8)
    assert rows[0]["bits_per_byte"] == pytest.approx(nats * size.weight_sum / math.log(2) / size.text_bytes)
    manifest = read_manifest(out)
    assert manifest is not None and manifest["consumed"] == 48 and manifest["checkpoint"] == "step-000000006"


def test_the_loss_falls(tmp_path: Path) -> None:
    tiny.run(tmp_path / "run", TrainSettings(batch=8, learning_rate=1e-2, epochs=4.0))
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_formats_below_float32_stay_near_it(tmp_path: Path, precision: str) -> None:
    found = {}
    for kind in ("float32", precision):
        last = tiny.run(tmp_path / kind, TrainSettings(**FAST, precision=kind), data=tmp_path / "data")
        rows = [row for row in read_metrics(tmp_path / kind / "metrics.jsonl") if "loss" in row]
        found[kind] = torch.tensor([row["loss"] or math.nan for row in rows])
    assert (found[precision] - found["float32"]).abs().max() < 0.05
    from safetensors.torch import load_file

    stored = load_file(last / "model.safetensors")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    masters = load_file(last / "state" / "parameters.safetensors")
    for name, tensor in stored.items():  # one of a master's two neighbours (test_rounding.py)
        assert torch.allclose(masters[name], tensor.float(), rtol=torch.finfo(dtype).eps, atol=1e-7), name
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}


def test_tensorboard_gets_the_numbers_of_the_metrics(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny.run(tmp_path / "run", TrainSettings(**FAST, trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row and "source" not in row}
    assert {scalar.step: pytest.approx(scalar.value) for scalar in events.Scalars("loss")} == losses


def test_a_tracker_that_fails_never_stops_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", None)  # as if it were not installed
    tiny.run(tmp_path / "run", TrainSettings(**FAST, trackers=["swanlab"]))
    said = capsys.readouterr().err
    assert said.count("swanlab is left out") == 1 and "metrics.jsonl has everything" in said


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path / "run", heavy(NextToken(), 2), rows=8)
    said = capsys.readouterr().err
    assert "out of memory in step 1 with 8 rows a micro-batch: going on with 4" in said and "going on with 2" in said
    go(tmp_path / "usual", NextToken(), rows=2)
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("run", "usual")
    ]
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match=r"not even a micro-batch of 1 row fits(.|\n)*→ set train.recompute=true"):
        go(tmp_path / "never", heavy(NextToken(), 0), rows=2)


def test_out_of_memory_while_measuring_repeats_that_with_fewer_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And training goes on as such: with dropout, which measuring goes without."""

    class Heavy(NextToken):
        def compute(self, network: Any, batch: Any, factor: float = 1.0) -> Any:
            if len(batch.tokens) > 2 and not torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
            assert network.training == torch.is_grad_enabled()
            return super().compute(network, batch, factor)

    settings = TrainSettings(**{**FAST, "rows": 8}, evaluate_every=4, save={"every": 4})
    tiny.run(tmp_path / "run", settings, objective=Heavy())
    assert "out of memory in step 4 with 4 rows a micro-batch: going on with 2" in capsys.readouterr().err
    tiny.run(tmp_path / "usual", settings)
    found, usual = (
        [
            (row["step"], row.get("source"), row.get("loss", row.get("held_out_loss")))
            for row in read_metrics(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("run", "usual")
    )
    assert [row[:2] for row in found] == [row[:2] for row in usual]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in usual], rel=1e-5)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-000000004", "step-000000006"]


def test_a_save_that_fails_beside_training_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise UserError("the disk is full", do="make room")

    monkeypatch.setattr("danlu.train.checkpoint.write_checkpoint", full)
    with pytest.raises(UserError, match="the disk is full"):
        tiny.run(tmp_path / "run", TrainSettings(**FAST, save={"every": 2}))


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        tiny.run(tmp_path / "run", TrainSettings(**FAST, skip=[(0, 96)]))


def test_data_outside_its_limits_is_refused(tmp_path: Path) -> None:
    """Pairs of which none has a target; what was found is kept where all is well."""
    settings = DPOTrainSettings(batch=8, rows=4, steps=2, limits=LossLimits(min_loss_share=0.99))
    with pytest.raises(UserError, match=r"tokens in the loss: .*`min_loss_share` asks 99"):
        tiny.run(tmp_path / "run", settings, "pair")
    tiny.run(tmp_path / "run", settings.model_copy(update={"limits": LossLimits()}), "pair")
    found = json.loads((tmp_path / "run" / "data_check.json").read_text())["found"]
    assert found["rows"] == 192 and found["loss_share"] < 0.99


def test_reference_log_probabilities_are_kept_and_used_again(tmp_path: Path) -> None:
    settings = DPOTrainSettings(batch=8, rows=4, steps=2)
    tiny.run(tmp_path / "one", settings, "pair", cache=tmp_path / "cache")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert len(files) == 2, "training and held-out pairs"
    tiny.run(tmp_path / "two", settings.model_copy(update={"beta": 0.5}), "pair", cache=tmp_path / "cache")
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    rows = [read_metrics(tmp_path / name / "metrics.jsonl")[0] for name in ("one", "two")]
    assert rows[0]["loss"] == rows[1]["loss"] == pytest.approx(math.log(2)), "at the start nothing was gained"
    assert rows[0]["logp_chosen"] == rows[1]["logp_chosen"] and rows[0]["rewards_chosen"] == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_compiled_runs_one_after_the_other(tmp_path: Path) -> None:
    """Stages of one process, batches of many layouts: the same losses, and the compiler's limit is never reached."""
    save = SaveSettings(weights_only=True)
    for unit, kind in (("document", TrainSettings), ("pair", DPOTrainSettings), ("document", TrainSettings)):
        losses = []
        for compiled in (False, True):
            out = tmp_path / f"{unit} {compiled}"
            shutil.rmtree(out, ignore_errors=True)
            settings = kind(batch=8, rows=4, learning_rate=1e-3, steps=6, compile=compiled, evaluate_every=2, save=save)
            tiny.run(out, settings, unit, data=tmp_path / "data")
            losses.append([row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row])
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
