"""`kill -9` of the process that started others: they end by themselves, and what was finished stays finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WORK = """
import os, sys, time
from pathlib import Path
from danlu.ledger.tasks import Task, run_tasks

def work(number: int, folder: str, seconds: float) -> int:
    Path(folder, f"{number}-{os.getpid()}").touch()
    time.sleep(seconds if number >= 2 else 0)
    return number

if __name__ == "__main__":
    folder, seconds = sys.argv[1], float(sys.argv[2])
    tasks = [Task(str(n), work, {"number": n, "folder": folder, "seconds": seconds}, identity=str(n)) for n in range(4)]
    print(run_tasks(tasks, Path(folder), workers=2))
"""
SAVES = """
import os, pathlib, signal, sys, time
from danlu.ledger.parent import end_with
from danlu.recipe.processes import PARENT

end_with(int(os.environ[PARENT]), saving=True)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
mine = pathlib.Path(sys.argv[1], os.environ["RANK"] + "-" + str(os.getpid()))
mine.touch()
while not asked: time.sleep(0.01)
mine.write_text("saved")
"""
STARTS = "import sys; from danlu.recipe.processes import run_together; run_together([sys.executable, *sys.argv[1:]], 2)"


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def begun(folder: Path) -> dict[str, int]:
    """The process that took up each number."""
    names = [path.name.split("-") for path in folder.iterdir() if "-" in path.name]
    return {number: int(pid) for number, pid in names}


def gone(pid: int) -> bool:
    """Whether the process has ended, be it that nobody asked yet how."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text("utf-8").rpartition(")")[2].split()[0] == "Z"


def test_workers_end_and_finished_tasks_stand(tmp_path: Path) -> None:
    script, folder = tmp_path / "work.py", tmp_path / "work"
    script.write_text(WORK)
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder), "60"])
    wait_for(lambda: len(begun(folder)) == 4)
    parent.kill()
    parent.wait()
    wait_for(lambda: all(map(gone, begun(folder).values())))
    recorded = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = subprocess.run([sys.executable, str(script), str(folder), "0"], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "[0, 1, 2, 3]"
    new = [path.name[0] for path in folder.iterdir() if path not in recorded]
    assert sorted(new) == ["2", "3"], "those in hand are done again, the others are not"


def test_processes_that_train_together_save_first(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", STARTS, "-c", SAVES, str(tmp_path)])
    wait_for(lambda: len(begun(tmp_path)) == 2)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: all(map(gone, begun(tmp_path).values())))
    assert {path.read_text() for path in tmp_path.iterdir()} == {"saved"}
