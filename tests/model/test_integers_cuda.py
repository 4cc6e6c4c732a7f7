"""The kernels for weights of 4 and 8 bits, run by Triton's interpreter where there is no GPU, against float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton, which torch's CUDA builds bring, is not here")
def test_products_are_those_of_the_weight_that_is_stood_for() -> None:
    on_gpu = torch.cuda.is_available()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("integers_errors.py"))],
        env=os.environ if on_gpu else {**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert len(found) == 3
    for case, errors in found.items():
        assert errors["given back"] < 1e-6, case
        assert max(errors.values()) < 2e-3, (case, errors)  # a GPU multiplies several rows in tf32
