"""Reference log-probabilities: the same where memory runs out meanwhile, and where a run is stopped and goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.numpy import load_file

from danlu.ledger.errors import Stopped, UserError
from danlu.train import reference
from danlu.train.preference_settings import DPOTrainSettings

SETTINGS = DPOTrainSettings(batch=8, rows=8, steps=2)


@pytest.fixture(autouse=True)
def several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BATCH", 16)


def kept(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """By file: what is trained on, and what is held out."""
    files = list((out / "reference").iterdir())
    assert {file.suffix for file in files} == {".safetensors"}
    return {file.name: load_file(file) for file in files}


def require_equal(found: Path, usual: Path, tolerance: float) -> None:
    assert kept(found).keys() == kept(usual).keys()
    for name, columns in kept(usual).items():
        for source, values in columns.items():
            assert (values < 0).all() and values.dtype == np.float64
            np.testing.assert_allclose(kept(found)[name][source], values, rtol=tolerance)


def watched(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Calls `before` with each micro-batch that the reference is computed of."""
    compute = reference.document_logp

    def look(network: Any, batch: Any, *rest: Any) -> Any:
        before(batch)
        return compute(network, batch, *rest)

    monkeypatch.setattr(reference, "document_logp", look)


def test_out_of_memory_goes_on_with_fewer_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fits(rows: int) -> Any:
        def require(batch: Any) -> None:
            if len(batch.tokens) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")

        return require

    tiny.run(tmp_path / "usual", SETTINGS, "pair", data=tmp_path / "data")
    capsys.readouterr()
    watched(monkeypatch, fits(2))
    tiny.run(tmp_path / "run", SETTINGS, "pair", data=tmp_path / "data")
    said = capsys.readouterr().err
    assert "out of memory in the reference log-probabilities with 8 rows a micro-batch: going on with 4" in said
    assert "going on with 2" in said
    require_equal(tmp_path / "run", tmp_path / "usual", 1e-5)
    watched(monkeypatch, fits(0))
    with pytest.raises(UserError, match=r"reference log-probabilities: not even a micro-batch of 2 rows fits"):
        tiny.run(tmp_path / "never", SETTINGS, "pair", data=tmp_path / "data")


def test_what_was_computed_before_a_stop_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def ask(batch: Any) -> None:
        seen.append(len(batch.tokens))
        if len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    watched(monkeypatch, ask)
    stop_at = 0
    tiny.run(tmp_path / "usual", SETTINGS, "pair", data=tmp_path / "data")
    every, stop_at = len(seen), len(seen) // 2
    seen.clear()
    with pytest.raises(Stopped, match="the same command goes on from there"):
        tiny.run(tmp_path / "run", SETTINGS, "pair", data=tmp_path / "data")
    stopped, stop_at = len(seen), 0
    assert stopped < every
    tiny.run(tmp_path / "run", SETTINGS, "pair", data=tmp_path / "data")
    assert len(seen) == every, "nothing was computed twice"
    require_equal(tmp_path / "run", tmp_path / "usual", 0)
