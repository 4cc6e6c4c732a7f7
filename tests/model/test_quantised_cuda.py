"""Kernels for quantised weights and adapters, run by Triton's interpreter where there is no GPU, against float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ON_GPU = torch.cuda.is_available()
WITH_TRITON = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton, which torch's CUDA builds bring, is not here"
)


def printed(program: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program))],
        env=os.environ if ON_GPU else {**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@WITH_TRITON
def test_products_with_4_and_8_bits() -> None:
    found = printed("integers_errors.py")
    assert len(found) == 12
    for case, errors in found.items():
        assert errors.pop("given back", 0) < 1e-6, case
        rounded = [errors.pop(name) for name in list(errors) if name.startswith("bf16")]
        assert all(error < (4e-3 if ON_GPU else 8e-3) for error in rounded), (case, rounded)  # interpreted: cut off
        limit = 4e-3 if case.startswith("one row") else 2e-3  # sums in float16; a GPU multiplies several rows in tf32
        assert all(error < limit for error in errors.values()), (case, errors)


@WITH_TRITON
def test_products_with_nf4_and_their_gradients() -> None:
    found = printed("nf4_errors.py")
    assert len(found) == 2
    assert max(error for errors in found.values() for error in errors) < (2e-3 if ON_GPU else 1e-6), found


@WITH_TRITON
def test_adapters_in_place_and_their_gradients() -> None:
    found = printed("adapted_errors.py")
    assert len(found["adapted"]) == 4 and len(found["added"]) == 16
    assert max(error for errors in found["adapted"].values() for error in errors) < (2e-3 if ON_GPU else 1e-6), found
    assert max(found["added"].values()) < 2.0, found  # roundings of the sum's own format


@WITH_TRITON
def test_a_base_in_float8_and_gradients_of_what_is_beside_it() -> None:
    found = printed("float8_errors.py")
    assert len(found["products"]) == 14 and len(found["weights"]) == 12
    for case, (of_rounded, of_all) in found["products"].items():
        assert of_rounded < (1.5e-2 if ON_GPU else 1e-6), (case, of_rounded)
        assert 1e-2 < of_all < 6e-2, (case, of_all)  # each value is up to 1/16 away
    assert max(found["weights"].values()) < 1e-3, found["weights"]
    assert [compiled["kept"] for compiled in found["compiled"]] == [[], [4, 64]]
    assert max(compiled["apart"] for compiled in found["compiled"]) < (1e-2 if ON_GPU else 1e-6)


@WITH_TRITON
def test_dropout_in_place_and_its_gradients() -> None:
    found = printed("dropped_errors.py")
    assert len(found["adapted"]) == 10 and len(found["products"]) == 3
    limit = 2e-3 / torch.finfo(torch.float32).eps if ON_GPU else 4.0  # roundings; a GPU may multiply in tf32
    assert max(found["adapted"].values()) < limit, found["adapted"]
    assert max(found["products"].values()) < (2e-3 if ON_GPU else 1e-6), found["products"]
    for p, surprises in found["masks"].items():
        assert max(map(abs, surprises.values())) < 4.5, (p, surprises)
    assert found["far"] == {"first": True, "others": True}
    for recompute, compiled in found["compiled"].items():
        assert compiled.pop("apart") < (2e-3 if ON_GPU else 1e-5), (recompute, compiled)
        assert compiled == {"same": True, "other": True, "kept": [64] if recompute == "True" else [4, 64]}
