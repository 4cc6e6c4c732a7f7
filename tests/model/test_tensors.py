"""Safetensors written here are those of the library."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from danlu.model.tensors import write_tensors

KINDS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6),
    kind=st.sampled_from(KINDS),
    as_kind=st.sampled_from([None, *KINDS]),
)
def test_the_library_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], kind: torch.dtype, as_kind: torch.dtype | None
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    tensors = {f"权重.{number}": torch.randn(shape).to(kind) for number, shape in enumerate(shapes)}
    tensors["turned"] = torch.randn(3, 4).to(kind).t()
    assert write_tensors(path, tensors, as_kind) == hashlib.sha256(path.read_bytes()).hexdigest()
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == (as_kind or kind)
        assert torch.equal(read[name], tensor.to(as_kind or kind))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
