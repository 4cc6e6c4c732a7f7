"""Files beside the weights, and those that a run keeps, with something else in them: the error names the file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.infer.chat import chat
from danlu.infer.generate import generate_file
from danlu.infer.model import load
from danlu.infer.settings import ChatSettings, SamplingSettings
from danlu.ledger.errors import UserError
from danlu.ledger.files import read_json_lines, sole_user
from danlu.ledger.tasks import LEDGER, Task, run_tasks
from danlu.model.reward_head import RewardHead
from danlu.recipe.export import export_model
from danlu.recipe.graph import RECORD, read_record
from danlu.report.curves import read_curve
from danlu.serve.app import serve
from danlu.serve.settings import ServeSettings

BROKEN = [b"", b"{", b"[]", b"1", b"\xff\xfe", b'{"a": ' * 20_000]


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"])
def test_a_models_own(name: str, reciting_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(reciting_model, tmp_path / "模型，😀")
    for content in BROKEN:
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(folder / name))):
            load(folder)
        with pytest.raises(UserError, match=re.escape(str(folder / name))):
            export_model(folder, tmp_path / "out", "bf16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", BROKEN)
def test_a_stages_record(content: bytes, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(UserError, match=f"{RECORD}: not "):
        read_record(tmp_path)


def test_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b": 2}\n{"torn')
    assert read_json_lines(file) == [{"a": 1}, {"b": 2}]
    file.write_bytes(b'{"a": 1}\n[]\n')
    with pytest.raises(UserError, match=f"{file}:2: not a JSON object"):
        read_json_lines(file)


def test_a_ledger_of_tasks(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b"\x00\x00\n")
    with pytest.raises(UserError, match=f"{LEDGER}:1: not JSON"):
        run_tasks([Task("one", int)], tmp_path)


def test_a_file_that_a_task_reads_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"没有，😀\.jsonl: this file cannot be read any more"), sole_user(tmp_path):
        run_tasks([Task("one", int, inputs=[tmp_path / "没有，😀.jsonl"])], tmp_path)


def test_an_error_of_the_work_is_not_laid_to_the_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), sole_user(tmp_path):
        (tmp_path / "none").read_text()


def test_memory_is_looked_at_before_any_weights(
    reciting_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(reciting_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("danlu.model.pour.free_bytes", lambda device: 10)
    with pytest.raises(UserError, match=r"0\.0 GB are free"):
        load(folder)


def test_a_file_too_large_to_be_mapped(reciting_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("unable to mmap 300 bytes: Cannot allocate memory (12)")

    monkeypatch.setattr("danlu.model.stored.safe_open", fails)
    with pytest.raises(UserError, match=r"model.safetensors: cannot be mapped \(unable"):
        load(reciting_model)


def test_a_reward_model_neither_talks_nor_serves(reciting_model: Path) -> None:
    model = load(reciting_model)
    model.decoder.reward = RewardHead(model.decoder.settings.hidden_size)
    with pytest.raises(UserError, match="this is a reward model"):
        chat(model, ChatSettings())
    with pytest.raises(UserError, match="this is a reward model"):
        serve(model, ServeSettings(port=0))


def test_what_is_no_log_and_no_file_of_answers(reciting_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "对话：😀.jsonl"
    rows.write_text('{"prompt": "你好"}\n', "utf-8")
    with pytest.raises(UserError, match="no training step in it"):
        read_curve(rows)
    with pytest.raises(UserError, match="a folder, not a file for answers"):
        generate_file(load(reciting_model), rows, tmp_path, SamplingSettings())


def test_a_terminal_of_another_encoding() -> None:
    command = [sys.executable, "-m", "danlu.cli", "run", "没有，😀.yaml"]
    told = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "gbk"}, check=False)
    assert told.returncode == 2 and "没有，?.yaml: no such file" in told.stderr.decode("gbk")
