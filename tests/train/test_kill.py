"""kill -9 at random moments, some inside a save: no checkpoint is half-written and no loss changes by a bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny

from danlu.ledger.checkpoints import FOLDER, list_checkpoints
from danlu.ledger.metrics import read_metrics
from danlu.model.folder import load_decoder
from danlu.train.checkpoint import verify
from danlu.train.settings import SaveSettings, TrainSettings

STEPS = 48
SETTINGS = TrainSettings(
    batch=8,
    rows=4,
    epochs=STEPS / 12,
    learning_rate=1e-2,
    optimizer="muon",
    evaluate_every=16,
    save=SaveSettings(every=2, keep_last=2, keep_best=1),
)


def losses(out: Path) -> list[tuple[object, ...]]:
    names = ("step", "consumed", "loss", "grad_norm", "source", "held_out_loss")
    return [tuple(row.get(name) for name in names) for row in read_metrics(out / "metrics.jsonl")]


def steps_taken(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_text().count('"loss":') if file.is_file() else 0


def kill_once(out: Path, inside_save: bool, chance: random.Random) -> bool:
    """Starts the run and kills it: inside a save, or some steps after it goes on. False where it ended before that."""
    begin, process = steps_taken(out), tiny.launch(1, [(out, SETTINGS)])
    until = begin + chance.randrange(2, 12)
    while process.poll() is None:
        saving = any((out / FOLDER).glob(".step-*.partial-*"))
        if saving if inside_save else steps_taken(out) >= until:
            time.sleep(chance.uniform(0, 0.01))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.0005)
    assert process.returncode == 0, process.communicate()[1]
    return False


def prove(tmp_path: Path, kills: int) -> None:
    tiny.run(tmp_path / "whole", SETTINGS)
    out, chance, done, saving = tmp_path / "killed", random.Random(kills), 0, 0
    while done < kills:
        if not kill_once(out, done % 3 != 0, chance):
            shutil.rmtree(out)  # it ended before its kill: the next ones begin anew
            continue
        done += 1
        saving += any((out / FOLDER).glob(".step-*"))
        for path in list_checkpoints(out):
            verify(path)
            load_decoder(path)
    tiny.finish(tiny.launch(1, [(out, SETTINGS)]))
    print(f"{done} kills, {saving} of them inside a save")
    assert saving, "some kills fall inside a save"
    assert losses(out) == losses(tmp_path / "whole")
    assert not list((out / FOLDER).glob(".step-*"))
    last = [list_checkpoints(run)[-1] / "state/optimizer.safetensors" for run in (out, tmp_path / "whole")]
    assert last[0].read_bytes() == last[1].read_bytes()


def test_three_kills(tmp_path: Path) -> None:
    prove(tmp_path, 3)


@pytest.mark.prove
def test_twenty_five_kills(tmp_path: Path) -> None:
    prove(tmp_path, 25)
