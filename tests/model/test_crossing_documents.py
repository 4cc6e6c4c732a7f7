"""Documents that cross from one row into the next: the same as each alone, compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.model.attention import Documents, document_mask, masked_attention

LENGTH, LENGTHS = 8, [5, 8, 1, 6, 4]


def packed(window: int | None, dtype: torch.dtype, lengths: list[int]) -> tuple[Documents, list[Tensor]]:
    sizes, total = torch.tensor(lengths), sum(lengths)
    cu = torch.cat([torch.zeros(1, dtype=torch.int32), sizes.cumsum(0).int(), torch.tensor([total, total]).int()])
    document_BT = torch.arange(len(lengths)).repeat_interleave(sizes).view(-1, LENGTH)
    torch.manual_seed(0)
    parts = [torch.randn(*document_BT.shape, heads, 4, dtype=dtype, requires_grad=True) for heads in (4, 2, 2)]
    return Documents(cu, LENGTH, document_BT, window, dtype), parts


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, [5, 8, 3]], ids=["three rows", "two rows"])
def test_each_document_gets_what_it_gets_alone(lengths: list[int], window: int | None, compiled: bool) -> None:
    torch._dynamo.reset()
    attend, parts = packed(window, torch.float64, lengths)
    call = torch.compile(attend.__call__, backend="eager", fullgraph=True) if compiled else attend
    made = call(0, *parts)
    alone = []
    for q, k, v in zip(*(part.flatten(0, 1).split(lengths) for part in parts), strict=True):
        mask = document_mask(torch.zeros(1, len(q)), window)
        alone.append(masked_attention(q[None], k[None], v[None], mask)[0])
    expected = torch.cat(alone).view_as(made)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(made)
    got, wanted = (torch.autograd.grad((out * weights).sum(), parts) for out in (made, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_changing_a_document_leaves_the_others_bit_for_bit() -> None:
    attend, parts = packed(None, torch.float32, LENGTHS)
    before = attend(0, *parts)
    other = [part.detach().clone() for part in parts]
    for part in other:
        part.flatten(0, 1)[5:13] += 1  # the second document lies in two rows
    same = (attend(0, *other) == before).flatten(0, 1).all(-1).all(-1)
    assert same.tolist() == [not 5 <= place < 13 for place in range(24)]


@pytest.mark.parametrize(("size", "apart"), [(128, True), (512, False), (8, False)])
def test_short_documents_in_long_rows_are_taken_one_by_one(size: int, apart: bool) -> None:
    """Whichever way costs less: many tiny documents or full rows go through the mask, with the same output."""
    cu = torch.arange(0, 2 * 512 + 1, size, dtype=torch.int32)
    document_BT = torch.arange(len(cu) - 1).repeat_interleave(size).view(2, 512)
    attend = Documents(cu, size, document_BT, None, torch.float64)
    assert (attend.lengths is not None) == apart
    q, k, v = (torch.randn(2, 512, heads, 4, dtype=torch.float64) for heads in (2, 1, 1))
    expected = masked_attention(q, k, v, document_mask(document_BT))
    torch.testing.assert_close(attend(0, q, k, v), expected, rtol=1e-12, atol=1e-12)
