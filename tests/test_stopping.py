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
