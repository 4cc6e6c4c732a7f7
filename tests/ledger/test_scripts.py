"""Work that a script of one's own starts: workers import it, and must not run it once more each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from danlu.ledger.tasks import Task, run_tasks

out = Path(sys.argv[1])

def work():
    places = [out / name for name in ("one", "two")]
    tasks = [Task(place.name, os.mkdir, {"path": str(place)}, outputs=[place]) for place in places]
    run_tasks(tasks, out, workers=2)
    print("done")

"""


@pytest.mark.parametrize(("call", "told"), [("work()", True), ('if __name__ == "__main__":\n    work()', False)])
def test_a_script_runs_once(call: str, told: bool, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + call)
    ended = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert {"one", "two"} <= {path.name for path in tmp_path.iterdir()}
    assert ('below `if __name__ == "__main__":`' in ended.stderr) == told
