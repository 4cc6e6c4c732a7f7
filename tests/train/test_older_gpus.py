"""GPUs without bf16 and flash kernels: fp16 with a scaled loss, attention by SDPA; chosen by compute capability."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F

from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.model import attention
from danlu.train.precision import LossScale, require_format
from danlu.train.settings import SaveSettings, TrainSettings

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "flash", "bf16"), [((7, 0), False, False), ((7, 5), False, False), ((8, 0), True, True)]
)
def test_kernels_and_formats_follow_the_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], flash: bool, bf16: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")
    assert attention._has_varlen(CUDA, torch.float16) == flash
    assert not attention._has_varlen(CUDA, torch.float32)
    require_format("fp16", CUDA)
    if bf16:
        require_format("bf16", CUDA)
    else:
        with pytest.raises(UserError, match=r"Tesla T4 has no products in bf16(.|\n)*fp16"):
            require_format("bf16", CUDA)


def test_documents_in_fp16_through_sdpa_are_those_of_each_alone() -> None:
    """The mask that an older GPU gets, against plain causal attention of each document in float32."""
    torch.manual_seed(0)
    lengths = [5, 9, 2]
    cu = torch.tensor([0, 5, 14, 16], dtype=torch.int32)
    document_BT = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).view(1, 16)
    q, k, v = torch.randn(1, 16, 4, 8), torch.randn(1, 16, 2, 8), torch.randn(1, 16, 2, 8)
    attend = attention.Documents(cu, 16, document_BT, dtype=torch.float16)
    attend.lengths = None  # a GPU takes the mask where documents do not cross rows
    assert attend.mask is not None
    found = attend(0, q.half(), k.half(), v.half())
    for begin, end in ((0, 5), (5, 14), (14, 16)):
        here = (x[:, begin:end].transpose(1, 2) for x in (q, k, v))
        alone = F.scaled_dot_product_attention(*here, is_causal=True, enable_gqa=True).transpose(1, 2)
        torch.testing.assert_close(found[:, begin:end].float(), alone, atol=4e-3, rtol=4e-3)


def test_fp16_finds_its_scale_and_learns_as_float32_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a scale that overflows: steps are left out until gradients are finite, and none of them is applied."""
    monkeypatch.setattr(LossScale, "START", 2.0**24)
    common = {"batch": 8, "rows": 4, "learning_rate": 1e-2, "save": SaveSettings(weights_only=True)}
    rows = {}
    for precision in ("fp16", "float32"):
        tiny.run(tmp_path / precision, TrainSettings(precision=precision, **common), data=tmp_path / "data")
        rows[precision] = [row for row in read_metrics(tmp_path / precision / "metrics.jsonl") if "loss" in row]
    scales = [row["loss_scale"] for row in rows["fp16"]]
    left_out = rows["fp16"][-1]["non_finite"]
    assert 0 < left_out < 8 and scales[-1] == 2.0 ** (24 - left_out)
    assert scales == sorted(scales, reverse=True)
    finite = [row["loss"] for row in rows["fp16"] if row["loss"] is not None and not math.isnan(row["loss"])]
    assert finite[-1] < finite[0]
