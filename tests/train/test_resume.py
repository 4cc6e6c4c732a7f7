"""Going on: bit-equal losses, which checkpoint is taken, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from signalled import signalled

from danlu.ledger.checkpoints import checkpoint_folder, lacking_weights, list_checkpoints
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import sha256_file
from danlu.ledger.manifest import read_manifest
from danlu.ledger.metrics import read_metrics
from danlu.train.checkpoint import verify
from danlu.train.objectives.next_token import NextToken
from danlu.train.retention import best_first
from danlu.train.settings import RampStage, SaveSettings, TrainSettings

FAST = {"batch": 8, "learning_rate": 1e-2, "rows": 4}


def losses(out: Path) -> list[tuple[Any, ...]]:
    """What a run computed, row by row, without what depends on the clock."""
    names = ("step", "consumed", "tokens", "loss", "grad_norm", "learning_rate", "source", "held_out_loss")
    return [tuple(row.get(name) for name in names) for row in read_metrics(out / "metrics.jsonl")]


def settings(**more: Any) -> TrainSettings:
    return TrainSettings(**{**FAST, "save": SaveSettings(every=3, keep_last=9), "evaluate_every": 4, **more})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 12 steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    tiny.run(out, settings())
    return out


def back_to(whole: Path, out: Path, step: int) -> Path:
    """A copy of a run as it was when killed some time after saving `step`; the metrics run ahead of the checkpoint."""
    shutil.copytree(whole, out)
    if out.parent != whole.parent:
        shutil.copytree(whole.parent / "data", out.parent / "data")
    (out / "manifest.json").unlink()
    for path in list_checkpoints(out):
        if path > checkpoint_folder(out, step):
            shutil.rmtree(path)
    return out


@contextmanager
def trainer_of(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """A checkpoint's trainer.json, to be changed as if it had been written so."""
    file, manifest = checkpoint / "state" / "trainer.json", checkpoint / "manifest.json"
    content, listed = json.loads(file.read_text()), json.loads(manifest.read_text())
    yield content
    file.write_text(json.dumps(content))
    listed["files"]["state/trainer.json"] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    manifest.write_text(json.dumps(listed))


@pytest.mark.parametrize("step", [3, 6, 9])
def test_resumed_is_bit_equal_to_uninterrupted(whole: Path, tmp_path: Path, step: int) -> None:
    out = back_to(whole, tmp_path / "run", step)
    last = tiny.run(out, settings())
    assert losses(out) == losses(whole)
    for file in ("model.safetensors", "state/parameters.safetensors", "state/optimizer.safetensors"):
        assert (last / file).read_bytes() == (checkpoint_folder(whole, 12) / file).read_bytes()


@pytest.mark.parametrize(("optimizer", "precision"), [("muon", "bf16"), ("adamw", "fp16")])
def test_so_it_is_with_other_optimizers_and_formats(tmp_path: Path, optimizer: str, precision: str) -> None:
    ramp = [RampStage(tokens=200, batch=4)]
    chosen = settings(optimizer=optimizer, precision=precision, batch_ramp=ramp)
    tiny.run(tmp_path / "whole", chosen)
    out = back_to(tmp_path / "whole", tmp_path / "again", 6)
    tiny.run(out, chosen)
    assert losses(out) == losses(tmp_path / "whole")
    assert losses(out)[0][1] == 4, "the ramp's batch"


def test_a_finished_run_does_nothing_and_more_epochs_go_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = back_to(whole, tmp_path / "run", 12)
    before = losses(out)
    assert tiny.run(out, settings()) == checkpoint_folder(out, 12)
    assert losses(out) == before
    capsys.readouterr()
    assert tiny.run(out, settings(epochs=1.5)) == checkpoint_folder(out, 18)
    assert "changed since: epochs: 1.0 → 1.5\n" in capsys.readouterr().err
    assert [row[:3] for row in losses(out)][: len(before)] == [row[:3] for row in before]


def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def interrupt() -> None:
        while not (out / "metrics.jsonl").is_file() or len(losses(out)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Stopped, match="the same command goes on"):
        tiny.run(out, settings(epochs=50.0, save=SaveSettings(weights_only=True)))
    assert (list_checkpoints(out)[-1] / "state").is_dir(), "a stopped run can always go on"


@pytest.mark.parametrize("weights_only", [False, True])
def test_wherever_a_signal_comes_no_more_is_computed_and_nothing_is_lost(
    whole: Path, tmp_path: Path, weights_only: bool
) -> None:
    """In the midst of a step, in its last micro-batch, in an evaluation on the way and in that at the end."""
    shutil.copytree(whole.parent / "data", tmp_path / "data")
    chosen = settings(save=SaveSettings(every=3, keep_last=9, weights_only=weights_only))
    counted = signalled(NextToken(), 0)
    tiny.run(tmp_path / "counted", chosen, objective=counted)
    ends = checkpoint_folder(whole, 12)
    for when in (1, *range(2 + weights_only, counted.calls - 1, 3), counted.calls - 1, counted.calls):
        out, objective = tmp_path / str(when), signalled(NextToken(), when)
        with pytest.raises(Stopped, match=r"same command (goes on|begins anew)"):
            tiny.run(out, chosen, objective=objective)
        assert objective.calls == when, "no micro-batch is begun after the signal"
        assert not (out / "manifest.json").exists()
        steps = max((row["step"] for row in read_metrics(out / "metrics.jsonl")), default=0)
        saved = [path for path in list_checkpoints(out) if (path / "state").is_dir()]
        assert [path.name for path in saved][-1:] == ([checkpoint_folder(out, steps).name] if steps else [])
        last = tiny.run(out, chosen)
        assert losses(out) == losses(whole)
        assert read_manifest(last)["held_out_loss"] == read_manifest(ends)["held_out_loss"]
        assert (last / "model.safetensors").read_bytes() == (ends / "model.safetensors").read_bytes()


def test_healthy_passes_over_a_sick_checkpoint(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = back_to(whole, tmp_path / "run", 9)
    with trainer_of(checkpoint_folder(out, 9)) as content:
        content["health"]["record"].update(healthy=False, why="the loss scale is 0")
    tiny.run(out, settings(resume="healthy", skip=[(48, 56)]))
    said = capsys.readouterr().err
    assert "step-000000006" in said and "passed over step-000000009: the loss scale is 0" in said
    assert [path.name for path in (out / "abandoned").iterdir()] == ["step-000000009"]
    consumed = [row["consumed"] for row in read_metrics(out / "metrics.jsonl") if "consumed" in row]
    assert consumed == [8, 16, 24, 32, 40, 48, 64, 72, 80, 88, 96]


def test_a_named_checkpoint_and_never(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole.parent / "data", tmp_path / "data")
    tiny.run(out, settings(resume=str(checkpoint_folder(whole, 6))))
    assert losses(out) == [row for row in losses(whole) if row[0] > 6]
    tiny.run(out, settings(resume=str(checkpoint_folder(whole, 6))))
    assert not (out / "abandoned").exists(), "the same command goes on from where it stopped"
    with pytest.raises(UserError, match="resume is never"):
        tiny.run(out, settings(resume="never"))
    with pytest.raises(UserError, match=r"train.resume=heathy: no such folder\n.*auto, healthy"):
        tiny.run(out, settings(resume="heathy"))
    with pytest.raises(UserError, match="no state to resume from"):
        tiny.run(out, settings(resume=str(tmp_path)))


@pytest.mark.parametrize("name", ["model", "tokenizer", "template", "data", "objective"])
def test_a_checkpoint_of_another_run_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    out = back_to(whole, tmp_path / "run", 9)
    with trainer_of(checkpoint_folder(out, 9)) as content:
        content["fingerprints"][name] = "other"
    with pytest.raises(UserError, match=f"of another {name}"):
        tiny.run(out, settings())


def test_a_damaged_checkpoint_is_named(whole: Path, tmp_path: Path) -> None:
    out = back_to(whole, tmp_path / "run", 9)
    file = checkpoint_folder(out, 9) / "state" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"optimizer\.safetensors: damaged"):
        tiny.run(out, settings())
    file.unlink()
    with pytest.raises(
        UserError, match=r"optimizer\.safetensors: missing, .*\n.*delete this checkpoint; the one before"
    ):
        verify(checkpoint_folder(out, 9))
    (checkpoint_folder(out, 9) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest.json\n.*delete this checkpoint"):
        verify(checkpoint_folder(out, 9))


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_weights_that_are_gone_are_written_again_from_the_state(
    whole: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = back_to(whole, tmp_path / "run", 12)
    before, file = losses(out), checkpoint_folder(out, 12) / "model.safetensors"
    held = file.read_bytes()
    file.write_bytes(held[:100])
    if damage == "gone":
        file.unlink()
    assert lacking_weights(out) == "step-000000012 lacks model.safetensors"
    assert lacking_weights(out, "zh") == "step-000000012 缺少 model.safetensors"
    assert tiny.run(out, settings()) == checkpoint_folder(out, 12)
    assert "written again from its state: model.safetensors" in capsys.readouterr().err
    assert file.read_bytes() == held and losses(out) == before and not lacking_weights(out)
    assert not (out / "abandoned").exists()


def test_a_checkpoint_whose_state_is_gone_is_passed_over(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = back_to(whole, tmp_path / "run", 12)
    (checkpoint_folder(out, 12) / "state" / "optimizer.safetensors").unlink()
    tiny.run(out, settings())
    said = capsys.readouterr().err
    assert "step-000000012, which lacks state/optimizer.safetensors" in said and "going on from" in said
    assert losses(out) == losses(whole)
    assert not lacking_weights(out) and (out / "abandoned" / "step-000000012").is_dir()
    for path in list_checkpoints(out):
        (path / "state" / "parameters.safetensors").unlink()
    tiny.run(out, settings())
    assert losses(out) == losses(whole), "from its beginning"
    assert [path.name for path in list_checkpoints(out)] == [path.name for path in list_checkpoints(whole)]


def test_the_best_is_a_whole_one(whole: Path, tmp_path: Path) -> None:
    out = back_to(whole, tmp_path / "run", 12)
    best = best_first(out)[0]
    (best / "model.safetensors").unlink()
    assert best not in best_first(out)


def test_data_that_changed_is_refused(whole: Path, tmp_path: Path) -> None:
    out = back_to(whole, tmp_path / "run", 9)
    shutil.rmtree(tmp_path / "data" / "document-0")
    tiny.token_set(tmp_path / "data" / "document-0", "document", 48, seed=77)
    with pytest.raises(UserError, match="of another data"):
        tiny.run(out, settings())


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    out = tmp_path / "run"
    save = SaveSettings(every=2, keep_last=2, keep_best=1, every_epoch=True)
    tiny.run(out, settings(epochs=2.0, save=save, evaluate_every=2, learning_rate=0.3))
    kept = {int(path.name[5:]): read_manifest(path) for path in list_checkpoints(out)}
    held_out = {row["step"]: row["held_out_loss"] for row in read_metrics(out / "metrics.jsonl") if "source" in row}
    best = min((loss, step) for step, loss in held_out.items())[1]
    assert set(kept) == {12, 22, 24, best}
    assert [step for step, manifest in kept.items() if manifest and manifest["keep"]] == [12, 24]


def test_the_best_are_among_those_that_were_measured(tmp_path: Path) -> None:
    """A checkpoint between two evaluations has a loss of its own, and not the one before's."""
    out = tmp_path / "run"
    tiny.run(out, settings(save=SaveSettings(every=2, keep_last=1, keep_best=2), evaluate_every=5, learning_rate=0.3))
    held_out = {row["step"]: row["held_out_loss"] for row in read_metrics(out / "metrics.jsonl") if "source" in row}
    assert set(held_out) == {2, 4, 5, 6, 8, 10, 12}
    kept = {int(path.name[5:]): read_manifest(path) for path in list_checkpoints(out)}
    assert {step: manifest and manifest["held_out_loss"] for step, manifest in kept.items()} == {
        step: held_out[step] for step in {*sorted(set(held_out) - {5}, key=lambda step: held_out[step])[:2], 12}
    }


def test_a_loss_that_was_not_measured_is_none(tmp_path: Path, whole: Path) -> None:
    """`whole` saves every three steps and measures every four."""
    found = {path.name: read_manifest(path) for path in list_checkpoints(whole)}
    measured = [name for name, manifest in found.items() if manifest and manifest["held_out_loss"] is not None]
    assert len(found) == 4 and measured == ["step-000000012"]
    assert [path.name for path in best_first(whole)] == measured


def test_a_run_that_begins_anew_does_not_stand_behind_weights_without_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are of later steps: what it saves would be pruned as the oldest, and they be taken for the newest."""
    out, save = tmp_path / "run", SaveSettings(every=2, keep_last=2, weights_only=True)
    tiny.run(out, settings(save=save))
    (out / "manifest.json").unlink()
    with pytest.raises(Stopped, match="the same command goes on from there") as stopped:
        tiny.run(out, settings(save=save), objective=signalled(NextToken(), 16))
    assert str(list_checkpoints(out)[-1]) in str(stopped.value)
    assert "2 checkpoints without state were moved" in capsys.readouterr().err
    assert sorted(path.name for path in (out / "abandoned").iterdir()) == ["step-000000010", "step-000000012"]
    tiny.run(out, settings(save=save))
    assert "going on from" in capsys.readouterr().err


def test_weights_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    last = tiny.run(out, settings(save=SaveSettings(weights_only=True)))
    assert not (last / "state").exists() and (last / "model.safetensors").is_file()


def test_a_full_disk_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(UserError, match=r"keeps \d+ checkpoints of .* needs .*B and 100kB are free"):
        tiny.run(tmp_path / "run", settings())
    assert not list_checkpoints(tmp_path / "run")


def test_a_checkpoint_opens_in_transformers(whole: Path) -> None:
    from transformers import AutoModelForCausalLM

    from danlu.model.folder import load_decoder

    path = checkpoint_folder(whole, 12)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in load_decoder(path).parameters())
    assert model.get_input_embeddings().weight.dtype == torch.float32
