"""The key-value cache: one row a sequence, and the attention that reads and fills it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.attention import HALF, masked_attention
from danlu.model.decoder import Attend

GROWN = 64  # row lengths are multiples of this, so that the cache seldom has to grow
READ = 16  # and of this what a decoding step reads: few different shapes, and masks that kernels can load


class Cache:
    """Keys and values of all layers as [rows, length, kv_heads, head_dim], grown when needed.

    Rows 0 … n-1 are in use, so that a decoding step reads them as a view. The engine bounds rows × length.
    """

    def __init__(self, max_rows: int, max_tokens: int, window: int | None = None) -> None:
        self.max_rows, self.max_tokens, self.window = max_rows, max_tokens, window
        self.rows = self.length = 0
        self.moves = 0
        """How often the tensors were made anew: what holds on to the old ones is out of date then."""
        self.layers: list[tuple[Tensor, Tensor]] = []

    def fits(self, rows: int, length: int) -> bool:
        """Whether `rows` sequences of up to `length` tokens can be held at once."""
        return rows <= self.max_rows and rows * length <= self.max_tokens

    def reserve(self, rows: int, length: int) -> None:
        """Makes room for `rows` sequences of `length` tokens; what is held stays."""
        if rows <= self.rows and length <= self.length:
            return
        wide = max(self.rows, min(2 ** (rows - 1).bit_length(), self.max_rows))
        needed = max(self.length, -(-length // GROWN) * GROWN)
        long = self.length if length <= self.length else max(2 * self.length, needed)
        if wide * long > self.max_tokens:
            long = needed
        exact = wide * long > self.max_tokens
        self.moves += 1
        kept_rows, kept_length = self.rows, self.length
        self.rows, self.length = (rows, length) if exact else (wide, long)
        kept_rows, kept_length = min(kept_rows, self.rows), min(kept_length, self.length)
        for layer, (old_keys, old_values) in enumerate(self.layers):
            keys, values = self._empty(old_keys), self._empty(old_values)
            keys[:kept_rows, :kept_length] = old_keys[:kept_rows, :kept_length]
            values[:kept_rows, :kept_length] = old_values[:kept_rows, :kept_length]
            self.layers[layer] = (keys, values)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one row over another row."""
        for keys, values in self.layers:
            keys[target, :length] = keys[source, :length]
            values[target, :length] = values[source, :length]

    def prefill(self, rows_B: Tensor, positions_BT: Tensor, start: int) -> Attend:
        """Attention for new tokens of `rows_B` that begin at position `start`, right-padded to one length."""
        length = start + positions_BT.shape[1]
        causal = Causal(self.window)
        visible = None if start == 0 else _mask(positions_BT, length, self.window, torch.bool)

        def attend(layer: int, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
            keys, values = self._write(layer, rows_B[:, None], positions_BT, k_BTKD, v_BTKD)
            if visible is None:
                return causal(layer, q_BTHD, k_BTKD, v_BTKD)
            seen = keys[rows_B, :length].to(q_BTHD.dtype), values[rows_B, :length].to(q_BTHD.dtype)
            return masked_attention(q_BTHD, *seen, visible)

        return attend

    def decode(self, positions_B1: Tensor, places: Sequence[int]) -> Attend:
        """Attention for the next token of rows 0 … B-1; `places` are their positions again, for the host."""
        rows_B1 = torch.arange(len(positions_B1), device=positions_B1.device)[:, None]
        longest = max(places)
        even = self.window is None and min(places) == longest and not positions_B1.is_cuda  # none sees less than all
        length = longest + 1 if even else min(-(-(longest + 1) // READ) * READ, self.length)
        mask: Tensor | None = None

        def attend(layer: int, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
            nonlocal mask
            rows = len(rows_B1)
            if even:  # slices are quicker to write than places
                keys, values = self._write(layer, slice(rows), slice(longest, length), k_BTKD, v_BTKD)
            else:
                keys, values = self._write(layer, rows_B1, positions_B1, k_BTKD, v_BTKD)
                mask = _mask(positions_B1, length, self.window, keys.dtype) if mask is None else mask
            return next_token_attention(q_BTHD, keys[:rows, :length], values[:rows, :length], mask)

        return attend

    def _write(
        self, layer: int, rows: Tensor | slice, positions: Tensor | slice, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        if layer == len(self.layers):
            self.layers.append((self._empty(k), self._empty(v)))
        keys, values = self.layers[layer]
        keys[rows, positions], values[rows, positions] = k.to(keys.dtype), v.to(values.dtype)
        return keys, values

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros: a masked key has weight 0, and 0 times an uninitialised NaN would be NaN.
        heads, size = like.shape[2:]
        if like.is_cuda:
            return like.new_zeros(self.rows, self.length, heads, size)
        # A CPU's products want the keys of a head together, and have no quick way with few rows in half precision.
        dtype = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(self.rows, heads, self.length, size, dtype=dtype).transpose(1, 2)


class Causal:
    """Attention without a cache for sequences that all begin at position 0, right-padded."""

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self._visible: Tensor | None = None

    def __call__(self, layer: int, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        length = q_BTHD.shape[1]
        if self.window is None or length <= self.window:
            return causal_attention(q_BTHD, k_BTKD, v_BTKD)
        if self._visible is None:
            positions_1T = torch.arange(length, device=q_BTHD.device)[None]
            self._visible = _mask(positions_1T, length, self.window, torch.bool)
        return masked_attention(q_BTHD, k_BTKD, v_BTKD, self._visible)


def causal_attention(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
    """Each token sees itself and all before it: o_BTHD."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    if q.is_cuda and q.dtype not in HALF:  # the kernel for float32 knows no grouped heads
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def next_token_attention(q_B1HD: Tensor, k_BLKD: Tensor, v_BLKD: Tensor, mask_B11L: Tensor | None) -> Tensor:
    """One query a sequence: o_B1HD. The heads of a group read the same keys, so they are query rows of one head."""
    q_BKGD = q_B1HD.reshape(len(q_B1HD), k_BLKD.shape[2], -1, q_B1HD.shape[3])
    k_BKLD, v_BKLD = k_BLKD.transpose(1, 2), v_BLKD.transpose(1, 2)
    attention = F.scaled_dot_product_attention if q_B1HD.is_cuda else _in_products
    return attention(q_BKGD, k_BKLD, v_BKLD, mask_B11L).to(q_B1HD.dtype).reshape(q_B1HD.shape)


def _in_products(q_BKGD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
    """SDPA for few queries on a CPU, in the dtype of the keys: its kernel there is made for many."""
    q_NGD, k_NDL = q_BKGD.to(k_BKLD.dtype).flatten(0, 1), k_BKLD.flatten(0, 1).mT
    scale = q_BKGD.shape[-1] ** -0.5
    scores_NGL = torch.baddbmm(q_NGD.new_empty(()), q_NGD, k_NDL, beta=0, alpha=scale)
    if mask_B11L is not None:
        scores_NGL.view(*q_BKGD.shape[:3], -1).add_(mask_B11L)
    return torch.bmm(scores_NGL.softmax(-1), v_BKLD.flatten(0, 1)).view(q_BKGD.shape)


def _mask(positions_BT: Tensor, length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Which keys each query sees, [B, 1, T, length]: true and false, or 0 and -inf for a floating dtype."""
    distance_BTL = positions_BT[:, :, None] - torch.arange(length, device=positions_BT.device)
    visible = distance_BTL >= 0 if window is None else (distance_BTL >= 0) & (distance_BTL < window)
    if dtype == torch.bool:
        return visible[:, None]
    zero = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return zero.masked_fill(~visible, float("-inf"))[:, None]
