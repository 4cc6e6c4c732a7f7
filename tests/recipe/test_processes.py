"""Processes that train together: what they are told, how they stop, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.ledger.errors import Stopped, UserError
from danlu.model.settings import ModelSettings
from danlu.recipe import job
from danlu.recipe.job import TrainingJob
from danlu.recipe.processes import run_together, tell
from danlu.recipe.stages import train
from danlu.text.settings import SourceSettings
from danlu.tokens.settings import DataSettings
from danlu.train.settings import TrainSettings

TELLS = "import os, pathlib, sys; pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(' '.join(os.environ[n] for n"
TELLS += " in ('LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')))"
STOPS = """
import os, pathlib, signal, sys, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
pathlib.Path(sys.argv[1], os.environ["RANK"]).touch()
while not got: time.sleep(0.01)
time.sleep(0.3)
sys.exit(130 if len(got) == 1 else 3)
"""
FAILS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.exit(7) if os.environ["RANK"] == "1" else time.sleep(60)
"""
ERRS = """
import os, sys, time
from danlu.ledger.errors import UserError
from danlu.recipe.processes import tell
said = sys.argv[1 + int(os.environ["RANK"])]
if said == "-": time.sleep(60)
tell(UserError(said, where="a.yaml", do="mend it"))
os._exit(2)
"""


def a_job(folder: Path) -> TrainingJob:
    return TrainingJob(
        stage="sft",
        train=TrainSettings(),
        data=DataSettings(sources=[SourceSettings(path="rows.jsonl")]),
        packed=folder,
        tokenizer=folder,
    )


def test_each_is_told_its_place(tmp_path: Path) -> None:
    assert run_together([sys.executable, "-c", TELLS, str(tmp_path)], 3) == [0, 0, 0]
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [one[0] for one in told] == ["0", "1", "2"]
    assert {tuple(one[1:3]) for one in told} == {("3", "127.0.0.1")} and len({one[3] for one in told}) == 1


def test_a_request_to_stop_reaches_each_once(tmp_path: Path) -> None:
    def ask() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask).start()
    assert run_together([sys.executable, "-c", STOPS, str(tmp_path)], 2, calm=(0, 130)) == [130, 130]


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_before_training_has_begun_is_no_failure(
    asked: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(command: list[str], *_: object, **more: Any) -> list[int]:
        threading.Timer(0.3, os.kill, (os.getpid(), asked)).start()
        return run_together([sys.executable, "-c", "import time; time.sleep(30)"], 2, **more)

    monkeypatch.setattr("danlu.recipe.stages.run_together", ask)
    monkeypatch.setattr("danlu.recipe.stages.write_job", lambda job, out: out)
    with pytest.raises(Stopped, match="the same command goes on") as stopped:
        train(None, tmp_path, 2)  # type: ignore[arg-type]  # the job is not looked at before it is written
    assert stopped.value.asked == asked


def test_none_is_left_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.recipe.processes.GRACE", 0.2)
    assert run_together([sys.executable, "-c", FAILS], 2) == [-signal.SIGKILL, 7]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (("no room", "no room"), "a.yaml: no room\n  → mend it"),
        (("-", "no room"), "a.yaml: no room\n  → mend it"),
        (("no room", "no rows"), "a.yaml: no room\n  → mend it\na.yaml: no rows\n  → mend it"),
    ],
    ids=["alike", "one alone", "different"],
)
def test_each_error_of_several_processes_is_said_once(
    said: tuple[str, str], heard: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("danlu.recipe.processes.GRACE", 0.2)
    with pytest.raises(UserError) as told:
        run_together([sys.executable, "-c", ERRS, *said], 2)
    assert str(told.value) == heard and capfd.readouterr().err == ""


def test_an_error_of_several_processes_is_that_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Here the tokenizer that all of them lack; under torchrun each says it by itself."""
    shape = ModelSettings(vocab_size=64, hidden_size=16, layers=1, heads=1, mlp_size=16)
    content = a_job(tmp_path).model_copy(update={"model": shape, "tokenizer": tmp_path / "gone"})
    found = []
    for processes in (1, 2):
        with pytest.raises(UserError) as told:
            train(content, tmp_path / "out", processes)
        found.append(str(told.value))
    assert found[0] == found[1] and "gone" in found[0]
    assert "gone" not in capfd.readouterr().err


def test_of_several_that_stop_together_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped("stopped after step 5")

    monkeypatch.setattr(job, "run_job", stopped)
    monkeypatch.setattr(sys, "argv", ["job", str(job.write_job(a_job(tmp_path), tmp_path))])
    for rank in ("0", "1", "2"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            job.main()
        assert ended.value.code == job.STOPPED
    assert capsys.readouterr().err == "danlu: stopped after step 5\n"


def test_a_job_file_that_is_none_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()
    (tmp_path / "cut.json").write_text('{"stage": "sft", "tra')
    for name in ("absent.json", "empty.json", "cut.json"):
        ended = subprocess.run(
            [sys.executable, "-m", "danlu.recipe.job", str(tmp_path / name)], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 2 and ended.stderr.startswith("danlu: "), name
        assert name in ended.stderr and "Traceback" not in ended.stderr, name


def test_an_error_that_cannot_be_left_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the disk is full, which may be the error itself."""
    (tmp_path / "full").touch()
    monkeypatch.setenv("DANLU_ERRORS", str(tmp_path / "full"))
    monkeypatch.setenv("RANK", "0")
    tell(UserError("the disk is full", do="make room"))
    assert capsys.readouterr().err == "danlu: the disk is full\n  → make room\n"
