"""The same tasks under datatrove's executors give the same files, byte for byte, and go on where they were cut."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger import cluster
from danlu.ledger.cluster import ClusterSettings, ClusterWorkers, Job, cluster_workers
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file, sha256_file
from danlu.ledger.tasks import Task
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("datatrove") is None, reason='datatrove is absent: pip install "danlu[cluster]"'
)
STEPS = [{"op": "normalise"}, {"op": "length", "min": 8}, {"op": "language"}, {"op": "exact_dedup"}]


def on_this_machine(job: Job) -> Any:
    from datatrove.executor import LocalPipelineExecutor

    return LocalPipelineExecutor([job], len(job.outputs), 1, str(job.folder))


def settings(folder: Path, **how: Any) -> CleanSettings:
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    for file in range(3):
        rows = [{"text": f"第 {n % 37} 句话很好，没有问题。" * (n % 5)} for n in range(file, 90)]
        (raw / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(raw), "name": "raw", "max_bad_share": 0.9}
    return check(CleanSettings, {"sources": [source], "steps": STEPS, "workers": 1, "task_bytes": 4000} | how)


def written(out: Path) -> dict[str, str]:
    files = sorted(out.rglob("part-*.jsonl.zst"))
    return {str(file.relative_to(out)): sha256_file(file) for file in files}


@pytest.fixture
def clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work goes to datatrove's local executor."""
    monkeypatch.setattr("danlu.text.clean.ALONE_BYTES", 0)
    monkeypatch.setattr("danlu.text.clean.cluster_workers", lambda name, given: ClusterWorkers(on_this_machine))


@pytest.mark.usefixtures("clustered")
def test_cleaning_on_a_cluster_writes_the_same_bytes(tmp_path: Path) -> None:
    clean(settings(tmp_path), tmp_path / "pool")
    clean(settings(tmp_path, executor="ray"), tmp_path / "cluster")
    assert written(tmp_path / "cluster") == written(tmp_path / "pool")
    assert len(written(tmp_path / "pool")) >= 4
    kept = [json.loads((tmp_path / out / "manifest.json").read_text())["parts"] for out in ("pool", "cluster")]
    assert kept[0] == kept[1]


def note(number: int, out: str, mend: str) -> int:
    if number == 1 and (kill := Path(mend).with_name("kill")).exists():
        kill.unlink()
        if "ray" in sys.modules:  # there a task is a child of the process that Ray looks after
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2 and not Path(mend).exists():
        raise UserError("number 2 is bad", where="here", do="mend it")
    with atomic_file(Path(out)) as handle:
        handle.write(str(number))
    return number * number


def tasks(folder: Path) -> list[Task]:
    outs = [folder / f"{n}.txt" for n in range(4)]
    return [
        Task(f"note {n}", note, {"number": n, "out": str(out), "mend": str(folder / "mended")}, [], [out])
        for n, out in enumerate(outs)
    ]


def test_a_failed_task_is_told_and_the_others_are_not_done_again(tmp_path: Path) -> None:
    workers = ClusterWorkers(on_this_machine)
    with pytest.raises(UserError, match=r"here: number 2 is bad\n  → mend it"):
        workers.run(tasks(tmp_path), tmp_path / "ledger")
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.txt")}
    (tmp_path / "mended").touch()
    assert workers.run(tasks(tmp_path), tmp_path / "ledger") == [0, 1, 4, 9]
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in done.items())
    (tmp_path / "3.txt").unlink()
    assert workers.run(tasks(tmp_path), tmp_path / "ledger") == [0, 1, 4, 9]
    assert (tmp_path / "3.txt").exists()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_cluster
from danlu.ledger.cluster import ClusterWorkers
if __name__ == "__main__":
    import danlu.text.clean
    danlu.text.clean.ALONE_BYTES = 0
    danlu.text.clean.cluster_workers = lambda name, given: ClusterWorkers(test_cluster.on_this_machine)
    folder = Path(sys.argv[2])
    danlu.text.clean.clean(test_cluster.settings(folder, executor="ray"), folder / "cluster")
"""


@pytest.mark.usefixtures("clustered")
def test_killed_on_a_cluster_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    chosen = settings(tmp_path, executor="ray")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    results = tmp_path / "cluster" / "tasks" / "measure" / "jobs"
    while process.poll() is None and not list(results.glob("*/results/*")):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clean(chosen, tmp_path / "cluster")
    clean(settings(tmp_path), tmp_path / "pool")
    assert written(tmp_path / "cluster") == written(tmp_path / "pool")


SBATCH = """#!/bin/bash
# Runs the array of a script in the background; nobody looks at merged statistics.
script="${@: -1}"; copy=$(mktemp); cp "$script" "$copy"
echo "$@" >> "$FAKE/calls"; cat "$copy" >> "$FAKE/scripts"
last=$(grep -oP '(?<=--array=0-)[0-9]+' "$copy")
echo "Submitted batch job $$"
grep -q merge_stats "$copy" && exit
touch "$FAKE/running-$$"
(for rank in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$rank SLURM_NODELIST=here SLURM_JOB_ID=$$ bash "$copy" &
done; wait; rm "$FAKE/running-$$") > "$FAKE/log-$$" 2>&1 &
"""
COMMANDS = {
    "sbatch": SBATCH,
    "srun": '#!/bin/bash\nwhile [[ "$1" == -* ]]; do [[ "$1" == -n ]] && shift; shift; done; exec "$@"\n',
    "squeue": '#!/bin/bash\n[ -e "$FAKE/running-$3" ] && echo "$3 cpu clean"\n',
    "scontrol": "#!/bin/bash\necho here\n",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that do on this machine what Slurm's do."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, content in COMMANDS.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # there tasks find the functions of this file
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.1)
    return folder


def test_tasks_go_through_slurms_commands_and_a_killed_one_is_run_again(tmp_path: Path, slurm: Path) -> None:
    (tmp_path / "mended").touch()
    (tmp_path / "kill").touch()
    given = ClusterSettings(partition="cpu", time="01:30:00", cpus=2, memory=3, tasks=7)
    workers = cluster_workers("slurm", given)
    with pytest.raises(UserError, match="1 of 4 tasks gave nothing, note 1 the first"):
        workers.run(tasks(tmp_path), tmp_path / "ledger")
    script = (slurm / "scripts").read_text()
    for line in ("partition=cpu", "time=01:30:00", "cpus-per-task=2", "mem-per-cpu=3G", "array=0-3%7"):
        assert f"#SBATCH --{line}\n" in script
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.txt")}
    assert workers.run(tasks(tmp_path), tmp_path / "ledger") == [0, 1, 4, 9]
    assert len(done) == 3 and all(file.stat().st_mtime_ns == stamp for file, stamp in done.items())


RAY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_cluster
import danlu.text.clean
from danlu.ledger.cluster import ClusterSettings, cluster_workers
if __name__ == "__main__":
    danlu.text.clean.ALONE_BYTES = 0
    folder = Path(sys.argv[2])
    given = {"tasks": 2, "memory": 1}
    settings = test_cluster.settings(folder, executor="ray", cluster=given, steps=test_cluster.STEPS[:2])
    danlu.text.clean.clean(settings, folder / "cluster")
    for name in ("mended", "kill"):
        (folder / name).touch()
    workers = cluster_workers("ray", ClusterSettings(**given))
    assert workers.run(test_cluster.tasks(folder), folder / "ledger") == [0, 1, 4, 9]
"""


@pytest.mark.prove
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='ray is absent: pip install "danlu[ray]"')
def test_cleaning_on_ray_writes_the_same_bytes_and_survives_a_kill(tmp_path: Path) -> None:
    script = tmp_path / "on_ray.py"
    script.write_text(RAY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    command = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, capture_output=True, env=environment)
    clean(settings(tmp_path, steps=STEPS[:2]), tmp_path / "pool")
    assert written(tmp_path / "cluster") == written(tmp_path / "pool")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='ray is absent: pip install "danlu[ray]"')
def test_a_ray_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(cluster, "RAY_SECONDS", 0.2)
    monkeypatch.setattr(ray, "init", lambda **given: time.sleep(5))
    with pytest.raises(UserError, match=r"no answer in 0\.2 seconds"):
        cluster_workers("ray", ClusterSettings(address="ray://nobody:10001"))


def test_settings_without_effect_are_refused() -> None:
    source = {"sources": [{"path": "a"}]}
    with pytest.raises(UserError, match="no effect with executor: local"):
        check(CleanSettings, {**source, "cluster": {"partition": "cpu"}})
    with pytest.raises(UserError, match=r"cluster\.partition` has no effect with executor: ray"):
        check(CleanSettings, {**source, "executor": "ray", "cluster": {"partition": "cpu"}})
    with pytest.raises(UserError, match="Slurm needs"):
        check(CleanSettings, {**source, "executor": "slurm"})
