"""The command line asked to stop where nobody finishes the work in hand first: tidied up, told, a code of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import sys, time
from pathlib import Path
from danlu import cli
from danlu.ledger.files import atomic_folder

@cli.app.command()
def slow(out: Path) -> None:
    with atomic_folder(out) as folder:
        (folder / "half").write_text("half")
        print("writing", flush=True)
        time.sleep(60)

sys.argv = ["danlu", "slow", sys.argv[1]]
cli.main()
"""


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_half_written_stays(asked: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(asked)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert told == "danlu: interrupted; the same command goes on from what was finished\n"
    assert list(tmp_path.iterdir()) == []


TWO_LISTS = """
import sys, time
from pathlib import Path
from danlu import cli
from danlu.ledger.tasks import Task, Workers

def first(out: str) -> None:
    print("in hand", flush=True)
    time.sleep(0.7)
    Path(out).write_text("done")

def second(out: str) -> None:
    Path(out).write_text("done")

@cli.app.command()
def lists(out: Path) -> None:
    with Workers(1) as workers:
        for made in (first, second):
            place = out / made.__name__
            workers.run([Task("one", made, {"out": str(place)}, outputs=[place])], out / "ledger", made.__name__)
    print("ended", flush=True)

sys.argv = ["danlu", "lists", sys.argv[1]]
cli.main()
"""


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_list_whose_tasks_are_all_in_hand_is_the_last(asked: signal.Signals, tmp_path: Path) -> None:
    """What is in hand is finished and kept, and the next list is not begun; the same command goes on there."""
    command = [sys.executable, "-c", TWO_LISTS, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in hand\n"
    process.send_signal(asked)
    said, told = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + asked, "")
    assert "danlu: first: 1 of 1 tasks done; stopped; the same command goes on from there\n" in told
    assert (tmp_path / "first").exists() and not (tmp_path / "second").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == "ended\n", "the first task is not done again"


ENDS_SLOWLY = """
import atexit, sys, time
from pathlib import Path
from danlu import cli
from danlu.ledger.errors import Stopped
from danlu.ledger.signals import graceful_stop

@atexit.register
def last():
    print("ending", flush=True)
    time.sleep(60)

@cli.app.command()
def works() -> None:
    with graceful_stop() as stop:
        print("working", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        raise Stopped("saved")

sys.argv = ["danlu", "works"]
cli.main()
"""


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_asked_again_while_python_ends_it_ends_without_a_word(asked: signal.Signals, again: signal.Signals) -> None:
    """What libraries do at the end, imports and all, was broken off with a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDS_SLOWLY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    process.send_signal(asked)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(again)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (-again, "danlu: saved\n")
