"""Files that appear whole or not at all, and metrics, counts and tasks that survive a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from danlu.ledger.checkpoints import checkpoint_folder, resolve_checkpoint
from danlu.ledger.counts import EXAMPLES, Counts
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import atomic_file, atomic_folder, fingerprint, make_folder, require_space, sole_user
from danlu.ledger.manifest import read_manifest, write_manifest
from danlu.ledger.metrics import Metric, MetricsWriter, cut_back, read_metrics, read_schema
from danlu.ledger.tasks import Task, Workers, read_seconds, run_tasks

SCHEMA = {"loss": Metric("nats", "mean", "training loss")}


def test_atomic_file_keeps_the_old_content_on_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as handle:
        handle.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "step"
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "x").write_text("1")
        assert not path.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(path) as folder:
        (folder / "x").write_text("1")
    with pytest.raises(FileExistsError), atomic_folder(path):
        pass
    with atomic_folder(path, replace=True) as folder:
        (folder / "y").write_text("2")
    assert [file.name for file in path.iterdir()] == ["y"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal, pathlib, sys\n"
        "from danlu.ledger.files import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1])) as f:\n"
        "    (f / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "step")], check=False)
    assert [path.name.startswith(".step.partial-") for path in tmp_path.iterdir()] == [True]
    with atomic_folder(tmp_path / "step"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk is full"), atomic_file(tmp_path / "a") as handle:
        handle.write("x")
        raise OSError(28, "No space left on device")


def test_require_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError, match="are free"):
        require_space(tmp_path, 10**18, "a checkpoint")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=900))
    with pytest.raises(UserError, match=r"a checkpoint needs 12\.3kB and 900B are free"):
        require_space(tmp_path, 12_345, "a checkpoint")


def test_fingerprint_ignores_key_order() -> None:
    assert fingerprint({"a": 1, "b": [Path("x")]}) == fingerprint({"b": [Path("x")], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_manifest_round_trip_and_damage(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, {"tokens": 3, "名": "值"})
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest["tokens"], manifest["名"]) == (3, "值")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_metrics_are_cut_back_and_torn_lines_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, SCHEMA)
    for step in range(1, 6):
        writer.write(step, loss=float(step) if step != 2 else float("nan"))
    with pytest.raises(KeyError):
        writer.write(6, los=1.0)
    writer.close()
    with path.open("a") as handle:
        handle.write('{"step": 6, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    cut_back(path, 3)
    writer = MetricsWriter(path, SCHEMA)
    writer.write(4, loss=40.0)
    writer.close()
    assert [row["loss"] for row in read_metrics(path)] == [1.0, None, 3.0, 40.0]
    assert read_schema(path) == SCHEMA


def test_a_writer_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsWriter(path, SCHEMA).write(1, loss=1.0)
    with path.open("a") as handle:
        handle.write('{"step": 2')
    MetricsWriter(path, SCHEMA).write(3, loss=3.0)
    assert [row["step"] for row in read_metrics(path)] == [1, 3]


def test_counts_merge_and_keep_places() -> None:
    one, two = Counts(), Counts()
    for line in range(9):
        one.add("too short", f"a.jsonl:{line}")
    two.add("too short", "b.jsonl:1")
    two.add("no answer", "b.jsonl:2", times=3)
    merged = one + two
    assert merged["too short"] == 10
    assert list(merged.as_dict()) == ["too short", "no answer"]
    assert len(merged.as_dict()["too short"]["examples"]) == EXAMPLES
    assert Counts.from_dict(json.loads(json.dumps(merged.as_dict()))).as_dict() == merged.as_dict()


def test_resolve_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such"):
        resolve_checkpoint(tmp_path / "none")
    with pytest.raises(UserError, match="no model here"):
        resolve_checkpoint(tmp_path)
    for stage, step in (("pretrain", 7), ("sft", 3), ("sft", 12)):
        checkpoint_folder(tmp_path / stage, step).mkdir(parents=True)
    assert resolve_checkpoint(tmp_path) == checkpoint_folder(tmp_path / "sft", 12)
    assert resolve_checkpoint(tmp_path / "pretrain") == checkpoint_folder(tmp_path / "pretrain", 7)


def square(number: int, out: str) -> int:
    with atomic_file(Path(out)) as handle:
        handle.write(str(number * number))
    return number * number


def fail(out: str) -> None:
    raise UserError("bad row", where=out, do="mend it")


def squares(folder: Path, count: int) -> list[Task]:
    return [
        Task(f"square-{n}", square, {"number": n, "out": str(folder / f"{n}.txt")}, outputs=[folder / f"{n}.txt"])
        for n in range(count)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_run_once(tmp_path: Path, workers: int) -> None:
    tasks = squares(tmp_path, 4)
    assert run_tasks(tasks, tmp_path, workers=workers) == [0, 1, 4, 9]
    before = [task.outputs[0].stat().st_mtime_ns for task in tasks]
    tasks[2].outputs[0].unlink()
    assert run_tasks(tasks, tmp_path, workers=workers) == [0, 1, 4, 9]
    after = [task.outputs[0].stat().st_mtime_ns for task in tasks]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]


def test_a_task_runs_again_when_its_input_changes(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("1")
    task = Task("t", square, {"number": 3, "out": str(out)}, inputs=[source], outputs=[out])
    run_tasks([task], tmp_path)
    out.write_text("kept")
    run_tasks([task], tmp_path)
    assert out.read_text() == "kept"
    source.write_text("22")
    run_tasks([task], tmp_path)
    assert out.read_text() == "9"


def test_a_users_error_comes_back_from_a_worker(tmp_path: Path) -> None:
    tasks = [Task(f"f{n}", fail, {"out": f"rows.jsonl:{n}"}) for n in range(2)]
    with pytest.raises(UserError) as error:
        run_tasks(tasks, tmp_path, workers=2)
    assert error.value.do == "mend it"


def process(number: int) -> int:
    sum(range(1_000_000))
    return os.getpid()


def test_workers_stay_for_several_lists_and_their_seconds_are_kept(tmp_path: Path) -> None:
    tasks = [Task(f"p{n}", process, {"number": n}) for n in range(4)]
    with Workers(2) as workers:
        first = set(workers.run(tasks, tmp_path / "first"))
        second = set(workers.run(tasks, tmp_path / "second"))
        third = set(workers.run(tasks, tmp_path / "third", alone=True))
    assert 1 <= len(first | second) <= 2 and os.getpid() not in first
    assert third == {os.getpid()}
    assert read_seconds(tmp_path / "first") > 0 and read_seconds(tmp_path / "none") == 0


def fail_or_work(out: str) -> None:
    if not out:
        raise UserError("broken", do="mend it")
    slow(out)


def test_what_was_in_hand_when_a_task_failed_is_not_done_again(tmp_path: Path) -> None:
    outs = ["", str(tmp_path / "done"), str(tmp_path / "never")]
    tasks = [Task(out or "fails", fail_or_work, {"out": out}) for out in outs]
    with pytest.raises(UserError, match="broken"):
        run_tasks(tasks, tmp_path / "ledger", workers=2)
    assert str(tmp_path / "done") in (tmp_path / "ledger" / "tasks.jsonl").read_text()
    assert not (tmp_path / "never").exists()


def slow(out: str) -> None:
    time.sleep(0.3)
    Path(out).write_text("done")


def test_stopping_leaves_whole_tasks_and_goes_on(tmp_path: Path) -> None:
    def signalled(out: str) -> None:
        slow(out)
        os.kill(os.getpid(), signal.SIGTERM)

    tasks = [Task(str(n), slow, {"out": str(tmp_path / str(n))}, outputs=[tmp_path / str(n)]) for n in range(3)]
    stopping = [Task("0", signalled, tasks[0].arguments, outputs=tasks[0].outputs), *tasks[1:]]
    with pytest.raises(Stopped, match="1 of 3"):
        run_tasks(stopping, tmp_path, workers=1)
    assert len(run_tasks(tasks, tmp_path, workers=1)) == 3


def test_files_of_a_folder_may_be_read_by_those_who_may_read_the_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "weights").write_bytes(b"x")
        (folder / "weights").chmod(0o600)
    mode = (tmp_path / "step").stat().st_mode & 0o666
    assert (tmp_path / "step" / "weights").stat().st_mode & 0o777 == mode


def test_the_checkpoint_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    for step, epoch in ((5, 0.6), (9, 1.02), (17, 2.0), (20, 2.4)):
        write_manifest(checkpoint_folder(tmp_path, step), {"epoch": epoch})
    assert resolve_checkpoint(Path(f"{tmp_path}@epoch=2")) == checkpoint_folder(tmp_path, 17)
    assert resolve_checkpoint(Path(f"{tmp_path}@epoch=1")) == checkpoint_folder(tmp_path, 9)
    with pytest.raises(UserError, match=r"epochs 0\.6, 1\.02, 2, 2\.4"):
        resolve_checkpoint(Path(f"{tmp_path}@epoch=3"))


def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from danlu.ledger.files import sole_user\n"
        "with sole_user(pathlib.Path(sys.argv[1])): print('in')"
    )
    with sole_user(tmp_path):
        refused = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert "another danlu is at work" in refused.stderr
    assert (
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True).stdout == b"in\n"
    )


def test_a_file_where_a_folder_is_to_be(tmp_path: Path) -> None:
    (tmp_path / "文件，😀").touch()
    with pytest.raises(UserError, match="a file, not a folder"), sole_user(tmp_path / "文件，😀"):
        pass
    with pytest.raises(UserError, match="cannot be written"):
        make_folder(tmp_path / ("长" * 200))
