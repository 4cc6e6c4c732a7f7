"""Causal attention within packed documents: one callable that hides the kernels and their versions."""

from __future__ import annotations

import inspect
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

MASK_BYTES = 5  # of a query and a key of a row where a mask is made: as a bool, and as what is added to their score
PAIRS_A_CALL = 16_000  # of a query and a key: what a call costs on a CPU besides them, by measurement
HALF = (torch.bfloat16, torch.float16)
HOPPER, CUDNN_SIZE = 9, 128  # generation of GPUs and size of a head where cuDNN's kernels are quicker than our own
# torch 2.13 wants grouped heads announced; 2.11 hands them to the same kernel without asking.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class Documents:
    """`attend` for rows of packed documents: a token sees the tokens before it in its own document, and itself.

    Made once a batch and used by every layer. bf16 and fp16 on CUDA (compute capability 8 and above) go through cuDNN
    where it is the quickest and installed (`danlu[cudnn]`), through kernels of our own where they have tiles for the
    GPU and the size of a head, else through torch's variable-length flash attention; all else through SDPA: with a
    mask, or document by document where documents cross from one row into the next or where that is cheaper on a CPU.

    Args:
        cu: int32 [D + 1], where documents begin in the flattened B * T tokens; repeated entries are empty documents.
        max_length: longest document. Few different values, best one, keep compiled blocks from compiling again.
        document_BT: id of the document that each token belongs to; different for each. A document has at most T.
        window: a token sees this many tokens, itself included.
        dtype: of the queries that will come.
        documents: how many of D may be anything but empty, padding's too; they come first. None: all.
        shared_D: int32 [D], how many of the first tokens of the document before it a document sees before its own;
            where `least_shared` allows it.
    """

    def __init__(
        self,
        cu: Tensor,
        max_length: int,
        document_BT: Tensor,
        window: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        documents: int | None = None,
        shared_D: Tensor | None = None,
    ) -> None:
        if document_BT.ndim != 2:
            raise ValueError(f"document ids come as [B, T], not {list(document_BT.shape)}: view them as the tokens are")
        self.cu, self.max_length, self.window = cu, max_length, window
        self.mask: Tensor | None = None
        self.lengths: list[int] | None = None
        self.spans: tuple[Tensor, Tensor, Tensor] | None = None
        self.counts: Tensor | None = None
        self.shared_D = shared_D
        if _has_varlen(document_BT.device, dtype):
            self._prepare_kernels(document_BT, len(cu) - 1 if documents is None else documents)
            return
        if shared_D is not None:
            self.lengths = cu.diff().tolist()
            return
        self.mask = document_mask(document_BT, window)
        lengths = [length for length in cu.diff().tolist() if length]
        crossing = bool((document_BT[1:, 0] == document_BT[:-1, -1]).any())
        if crossing:
            self.mask = torch.cat([previous_row_mask(document_BT, window), self.mask], dim=-1)
        if crossing or (not document_BT.is_cuda and _cheaper_apart(lengths, document_BT.shape[1])):
            self.lengths = lengths
        else:  # of a bool mask SDPA would make these numbers in every layer, and keep all of them
            computed = torch.float32 if dtype in HALF and not document_BT.is_cuda else dtype
            self.mask = torch.full_like(self.mask, -torch.inf, dtype=computed).masked_fill_(self.mask, 0.0)

    def _prepare_kernels(self, document_BT: Tensor, documents: int) -> None:
        from danlu.model.attention_cuda import CAPABILITIES, spans

        device = document_BT.device
        if torch.cuda.get_device_capability(device)[0] in CAPABILITIES:
            self.spans = spans(self.cu, document_BT.numel(), self.window, self.shared_D)
        if self.shared_D is None and cudnn_suits(device, self.window) and _cudnn_works(device):
            from danlu.model.attention_cudnn import counts

            self.counts = counts(documents, len(self.cu) - 1, document_BT.shape[1])

    def __call__(self, layer: int, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        """Attention output [B, T, H, D]; K must divide H. The layer makes no difference here."""
        if q_BTHD.dtype in HALF and not q_BTHD.is_cuda:
            # The backward pass of torch's kernel for CPUs takes three times as long in half precision.
            return self(layer, q_BTHD.float(), k_BTKD.float(), v_BTKD.float()).to(q_BTHD.dtype)
        # A compiled graph that looked at lengths would be compiled again for each batch: it looks at the mask alone.
        if not torch.compiler.is_compiling() and self.lengths is not None:
            shared = None if self.shared_D is None else self.shared_D.tolist()
            return _each_document(q_BTHD, k_BTKD, v_BTKD, self.lengths, self.window, shared)
        if self.mask is not None:
            if self.mask.shape[-1] > k_BTKD.shape[1]:
                k_BTKD, v_BTKD = (torch.cat([x.roll(1, 0), x], dim=1) for x in (k_BTKD, v_BTKD))
            return masked_attention(q_BTHD, k_BTKD, v_BTKD, self.mask)
        if q_BTHD.dtype not in HALF:
            raise TypeError(f"queries are {q_BTHD.dtype}: give Documents their dtype")
        q, k, v = (x.flatten(0, 1) for x in (q_BTHD, k_BTKD, v_BTKD))
        return self._on_gpu(q, k, v).view_as(q_BTHD)

    def _on_gpu(self, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor) -> Tensor:
        from danlu.model.attention_cuda import TILES, document_attention

        if self.counts is not None and q_NHD.shape[-1] == CUDNN_SIZE and cudnn_reaches(q_NHD, k_NKD, v_NKD):
            from danlu.model.attention_cudnn import cudnn_attention

            return cudnn_attention(q_NHD.contiguous(), k_NKD, v_NKD, self.cu, self.counts)[0]
        if self.spans is not None and q_NHD.shape[-1] in TILES:
            return document_attention(q_NHD, k_NKD, v_NKD, *self.spans)[0]
        return _varlen(q_NHD, k_NKD, v_NKD, self.cu, self.max_length, self.window)


def least_shared(device: torch.device, dtype: torch.dtype, head_size: int, compiled: bool) -> float:
    """From which share of a document on `Documents` had better be told that it shares it (`shared_D`); 1: never.

    On a CPU such a document is masked, which costs what is spared by a fifth of it (docs/log.md).
    """
    if device.type != "cuda":
        return 1.0 if compiled else 0.3
    if not _has_varlen(device, dtype):
        return 1.0
    from danlu.model.attention_cuda import CAPABILITIES, TILES

    return 0.0 if torch.cuda.get_device_capability(device)[0] in CAPABILITIES and head_size in TILES else 1.0


def cudnn_suits(device: torch.device, window: int | None) -> bool:
    """Whether cuDNN, where it is installed, is the quicker one for heads of CUDNN_SIZE."""
    if device.type != "cuda" or window is not None or torch.are_deterministic_algorithms_enabled():
        return False
    return torch.cuda.get_device_capability(device)[0] == HOPPER


def cudnn_reaches(*tensors: Tensor) -> bool:
    """Whether every place in these [N, ...] has a number of 32 bits, which is what cuDNN is told."""
    return all(x.shape[0] * x.stride(0) < 2**31 for x in tensors)


@cache
def _cudnn_works(device: torch.device) -> bool:
    """Whether it is installed; where it is and cannot be used, that is said once."""
    if find_spec("cudnn") is None:
        return False
    try:
        from danlu.model.attention_cudnn import make_plans

        make_plans(device)
    except Exception as error:  # what it raises is of no common kind, and there are kernels without it
        warnings.warn(f"nvidia-cudnn-frontend is here and cannot be used, so our kernels are: {error}", stacklevel=2)
        return False
    return True


def document_mask(document_BT: Tensor, window: int | None = None) -> Tensor:
    """bool [B, 1, T, T], true where a query (row) sees a key (column)."""
    place = torch.arange(document_BT.shape[1], device=document_BT.device)
    seen = place[:, None] >= place
    if window is not None:
        seen &= place[:, None] < place + window
    return (document_BT[:, :, None] == document_BT[:, None, :]).logical_and_(seen)[:, None]


def previous_row_mask(document_BT: Tensor, window: int | None = None) -> Tensor:
    """bool [B, 1, T, T], true where a query sees a key of the row before; the first row has none, and sees nothing."""
    place = torch.arange(document_BT.shape[1], device=document_BT.device)
    same = document_BT[:, :, None] == document_BT.roll(1, 0)[:, None, :]
    same[0] = False  # a document that begins in it may go on in the last row, which comes before it here
    if window is not None:
        same &= place[:, None] + len(place) < place + window
    return same[:, None]


def _cheaper_apart(lengths: list[int], row: int) -> bool:
    """Whether attention costs a CPU less document by document than over whole rows of so many tokens, masked."""
    return sum(length**2 + PAIRS_A_CALL for length in lengths) < sum(lengths) * row


def _each_document(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, lengths: list[int], window: int | None, shared: list[int] | None
) -> Tensor:
    """SDPA [B, T, H, D] over documents that lie end to end in the flattened rows."""
    parts = (x.flatten(0, 1).split(lengths) for x in (q_BTHD, k_BTKD, v_BTKD))
    attended, before = [], (k_BTKD.flatten(0, 1)[:0], v_BTKD.flatten(0, 1)[:0])
    for number, (q_NHD, *own) in enumerate(zip(*parts, strict=True)):
        prompt = shared[number] if shared else 0
        k_SKD, v_SKD = (torch.cat([x[:prompt], y]) for x, y in zip(before, own, strict=True)) if prompt else own
        narrow = window is not None and window < len(k_SKD)
        mask = document_mask(torch.zeros(1, len(k_SKD), device=q_NHD.device), window) if narrow or prompt else None
        mask = mask if mask is None else mask[:, :, prompt:]
        attended.append(masked_attention(q_NHD[None], k_SKD[None], v_SKD[None], mask)[0])
        before = (own[0], own[1])
    return torch.cat(attended).view_as(q_BTHD)


def masked_attention(q_BTHD: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, mask: Tensor | None) -> Tensor:
    """SDPA [B, T, H, D] with grouped key-value heads; mask is bool or added to scores, and broadcasts to [B, H, T, S];
    None: causal.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BSKD, v_BSKD))
    if q.is_cuda:  # the memory-efficient kernel, the one on CUDA that takes masks, knows no grouped heads
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    attended = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=not q.is_cuda)
    return attended.transpose(1, 2)


def _varlen(q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, cu: Tensor, max_length: int, window: int | None) -> Tensor:
    """Flash attention [N, H, D] over documents that lie end to end; the one place that knows torch's versions."""
    before = -1 if window is None else window - 1
    attended = varlen_attn(q_NHD, k_NKD, v_NKD, cu, cu, max_length, max_length, window_size=(before, 0), **_GROUPED)
    assert isinstance(attended, Tensor)  # a tuple comes only where statistics are asked for
    return attended


def _has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in HALF and torch.cuda.get_device_capability(device)[0] >= 8
