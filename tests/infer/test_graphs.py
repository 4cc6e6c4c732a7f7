"""The decoding kernels, run by Triton's interpreter where there is no GPU, against the decoder's own way."""

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
def test_the_kernels_give_what_the_decoder_gives() -> None:
    on_gpu = torch.cuda.is_available()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("decode_errors.py"))],
        env=os.environ if on_gpu else {**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["likeliest"] == [0] * 6
    assert len(found["kernels"]) == 16
    for case, errors in found["kernels"].items():
        # A GPU multiplies float32 in tf32; the kernel for one row in 4 bits subtracts what it has added.
        assert max(errors) < (1e-2 if on_gpu else 1e-3 if case == "one row, 4 bits" else 1e-5), case
