"""The decoding kernels, run by Triton's interpreter where there is no GPU, against the decoder's own way."""

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

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton, which torch's CUDA builds bring, is not here"
)
ON_GPU = torch.cuda.is_available()


def printed(program: str) -> dict[str, Any]:
    """What a program beside this file prints."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program))],
        env=os.environ if ON_GPU else {**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_kernels_give_what_the_decoder_gives() -> None:
    found = printed("decode_errors.py")
    assert found["likeliest"] == [0] * 6
    assert len(found["kernels"]) == 23
    for case, errors in found["kernels"].items():
        # A GPU multiplies float32 in tf32; the kernel for one row in 4 bits subtracts what it has added.
        assert max(errors) < (1e-2 if ON_GPU else 1e-3 if case == "one row, 4 bits" else 1e-5), case


def test_products_over_adapters_are_those_of_float64() -> None:
    found = printed("product_errors.py")
    assert len(found) == 27
    for case, errors in found.items():
        assert max(errors) < (1e-2 if ON_GPU else 1e-6), case
