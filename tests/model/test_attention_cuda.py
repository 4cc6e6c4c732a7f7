"""The attention kernels, run by Triton's interpreter where there is no GPU, against a plain softmax in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton, which torch's CUDA builds bring, is not here")
def test_outputs_and_gradients() -> None:
    on_gpu = torch.cuda.is_available()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("attention_errors.py"))],
        env=os.environ if on_gpu else {**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert len(found) in (9, 14)  # cuDNN's, too
    for case, errors in found.items():
        assert max(errors) < (1e-2 if on_gpu else 1e-5), case  # a GPU multiplies float32 in tf32


@pytest.mark.skipif(
    find_spec("cudnn") is None or torch.cuda.is_available(), reason="cuDNN is there, or its frontend not"
)
def test_a_frontend_without_cudnn_is_told_and_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.model import attention

    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    attention._cudnn_works.cache_clear()
    with pytest.warns(UserWarning, match="cannot be used, so our kernels are"):
        assert not attention._cudnn_works(torch.device("cuda"))
    attention._cudnn_works.cache_clear()


def test_places_beyond_32_bits_are_left_to_our_kernels() -> None:
    from danlu.model.attention import cudnn_reaches

    def values(tokens: int) -> torch.Tensor:
        """v [tokens, 32, 128] as it lies in a fused product of 96 heads."""
        return torch.empty(tokens, 96, 128, dtype=torch.bfloat16, device="meta")[:, 64:]

    assert cudnn_reaches(values(174_762)) and not cudnn_reaches(values(174_763))
