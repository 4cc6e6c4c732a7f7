"""ALiBi's attention, forward and backward: as eight dimensions more, as a mask in SDPA, and by FlexAttention (on CUDA).

    python benchmarks/alibi.py [--rows B] [--length T] [--heads H] [--size D] [--dtype bfloat16] [--device cuda]

`no positions` is the same attention without ALiBi, the least that any way could take. Each way runs in every round and
medians are shown; memory is the peak beside the inputs (CUDA only); errors are of outputs against float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.alibi import Alibi, lean, slopes
from danlu.model.attention import Documents
from danlu.model.settings import ModelSettings

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def ways(rows: int, length: int, heads: int, size: int, dtype: torch.dtype, device: torch.device) -> dict[str, Way]:
    """Functions of q, k, v [B, T, H, D]; each row is one document."""
    cu = torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=device)
    ids = torch.arange(rows, device=device)[:, None].expand(rows, length)
    attend = Documents(cu, length, ids, dtype=dtype)
    shape = ModelSettings.model_construct(heads=heads, kv_heads=heads, head_dim=size, hidden_size=heads * size)
    places = Alibi(shape)(torch.arange(length, device=device).expand(rows, length), dtype)
    slope_H = slopes(heads).to(device, torch.float32)

    def danlu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = lean(*(x.unsqueeze(3) for x in (q, k, v)), *places)
        return attend(0, q.flatten(2, 3), k.squeeze(3), v.squeeze(3))[..., :size]

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = torch.arange(length, device=device)
        bias = slope_H[:, None, None] * (place - place[:, None])
        mask = bias.masked_fill(place > place[:, None], float("-inf")).to(dtype)[None]
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), mask).transpose(1, 2)

    found = {"no positions": lambda q, k, v: attend(0, q, k, v), "danlu": danlu, "mask in SDPA": masked}
    if device.type == "cuda":
        found["FlexAttention"] = flex(length, slope_H, device)
    return found


def flex(length: int, slope_H: Tensor, device: torch.device) -> Way:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device=str(device))
    compiled = torch.compile(flex_attention)

    def score(value: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return value + slope_H[h] * (k - q)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, score_mod=score, block_mask=mask).transpose(1, 2)

    return attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 8, "length": 2048, "heads": 40, "size": 128, "rounds": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    shape = (given.rows, given.length, given.heads, given.size)
    generator = torch.Generator(device).manual_seed(0)
    inputs = [torch.randn(shape, device=device, dtype=dtype, generator=generator).requires_grad_() for _ in range(3)]
    push = torch.randn(shape, device=device, dtype=dtype, generator=generator)
    found = ways(*shape, dtype, device)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    peaks, outputs = dict.fromkeys(found, 0), {}
    for number in range(given.rounds + 2):
        for name, way in found.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            start = time.perf_counter()
            out = way(*inputs)
            torch.autograd.grad(out, inputs, push)
            if device.type == "cuda":
                torch.cuda.synchronize()
                peaks[name] = torch.cuda.max_memory_allocated() - held
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
            outputs[name] = out.detach()[:1, : min(512, given.length)].double()
    few = [x.detach()[:1, : min(512, given.length)].double() for x in inputs]
    exact = ways(1, few[0].shape[1], given.heads, given.size, torch.float64, device)["mask in SDPA"](*few)
    least = statistics.median(seconds["no positions"])
    print(f"{'way':16}{'ms':>9}{'x least':>9}{'peak MB':>9}{'error':>10}")
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        error = "" if name == "no positions" else f"{(outputs[name] - exact).abs().max().item():10.1e}"
        print(f"{name:16}{middle * 1e3:9.2f}{middle / least:9.2f}{peaks[name] / 1e6:9.0f}{error}")


if __name__ == "__main__":
    main()
