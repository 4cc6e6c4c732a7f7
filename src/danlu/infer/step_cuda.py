"""A decoding step of one row on a GPU as one kernel, step_cuda.cu, compiled when it is first needed: between kernels
memory would rest longer than it works.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.infer.cache import Cache
from danlu.model.decoder import Block, Decoder
from danlu.model.integers import Int8, Int8Embedding
from danlu.model.projection import Quantised

SOURCE = Path(__file__).with_suffix(".cu")
_PRODUCTS = ("products_row.cuh", "products_bf16.cuh", "products_integers.cuh")
INCLUDED = ("hopper.cuh", "words.cuh", *_PRODUCTS, "attention_row.cuh")
TUNED = {"WARPS": 8, "GROUP": 256, "PIECES": 8, "PATIENCE": 2**20}
"""Names that step_cuda.cu takes beside the model's. So often a word is asked for in half a second, where a step takes a
thousandth of one.
"""
ROWS = TUNED["GROUP"] - 2  # of a weight that a program has at most, of gate and up together: shares differ by one
_WIDEST = 2**14  # elements that a product takes in, at most: they lie in shared memory beside the ring
_WORDS = ("qkv", "pieces", "shares", "middle", "inner", "x", "lost")


class Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layers", "embed", "embed_scales", "head", "head_scales")),
        *((name, ctypes.c_void_p) for name in ("norm", "cos", "sin", "inputs")),
        *((name, ctypes.c_void_p) for name in (*_WORDS, "logits")),
        *((name, ctypes.c_float) for name in ("eps", "head_eps")),
        ("window", ctypes.c_int),
    )


Kernel = Callable[[Model], None]
"""Asks for one step."""


class NotBuilt(RuntimeError):
    """step_cuda.cu can't be compiled or loaded here."""


class RowStep:
    """The logits of the next token of row 0 of the cache, for decoders that `fit`.

    Weights and cache are read where they are: out of date when either has moved.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: Cache,
        turns: tuple[Tensor, Tensor],
        kernel_of: Callable[[torch.device, Mapping[str, int]], Kernel] | None = None,
    ) -> None:
        """
        Args:
            turns: cosines and sines of all positions, float32 [L, D / 2].
            kernel_of: compiles step_cuda.cu for a shape (default: for the GPU).
        """
        shape, norm = decoder.settings, decoder.norm.weight
        blocks: list[Any] = list(decoder.blocks)
        own, heads, width = shape.heads * shape.head_size, shape.kv_heads, shape.hidden_size
        qkv, pieces = own + 2 * heads * shape.head_size, TUNED["PIECES"]
        sizes = (qkv, pieces * own, 2 * pieces * shape.heads, width, shape.mlp_size, width, 1)
        words = [torch.zeros(size, dtype=torch.int32, device=norm.device) for size in sizes]
        table = torch.tensor(_addresses(chain.from_iterable(map(_read, blocks, cache.layers)))).to(norm.device)
        self._logits = norm.new_empty(1, shape.vocab_size)
        self.tickets_1K = torch.zeros(1, heads, dtype=torch.int32, device=norm.device)
        """For `take_likeliest`."""
        ends = (*_weight(_embedding(decoder)), *_weight(decoder.head), norm, *turns)
        self._lost = words[-1]
        self._kept = (table, *ends, *words)  # what the addresses below are of
        self._model = Model(
            *_addresses((table, *ends)), None, *_addresses((*words, self._logits)), decoder.norm.eps,
            blocks[0].q_norm.eps if shape.qk_norm else 0.0, cache.window or 2**30,
        )  # fmt: skip
        names = {
            **TUNED, "LAYERS": shape.layers, "HIDDEN": width, "MLP": shape.mlp_size, "VOCAB": shape.vocab_size,
            "KV_HEADS": heads, "QUERIES": shape.heads // heads, "HEAD": shape.head_size,
            "BIASED": int(shape.qkv_bias), "QK_NORM": int(shape.qk_norm), "BLOCK_BITS": _bits(blocks[0].qkv),
            "END_BITS": _bits(decoder.head),
        }  # fmt: skip
        self._kernel = (kernel_of or on_gpu)(norm.device, names)

    @staticmethod
    def fit(decoder: Decoder) -> bool:
        """Whether it computes this one, of those that decoding graphs fit: weights of 16, 8 or 4 bits on Hopper."""
        shape, device = decoder.settings, decoder.norm.weight.device
        about = torch.cuda.get_device_properties(device)
        blocks: list[Any] = list(decoder.blocks)
        parts = [part for block in blocks for part in (block.qkv, block.o, block.gate_up, block.down)]
        programs, own = about.multi_processor_count, shape.heads * shape.head_size
        rows = (own + 2 * shape.kv_heads * shape.head_size, shape.hidden_size, 2 * shape.mlp_size)
        depths, held = (own, shape.hidden_size, shape.mlp_size), {_bits(part) for part in parts}
        ends = {_bits(decoder.head), _bits(_embedding(decoder))}
        return (
            about.major == 9
            and find_spec("cuda") is not None
            and find_spec("cuda.bindings") is not None  # torch for CUDA on Linux brings it
            and decoder.norm.weight.dtype == torch.bfloat16
            and held in ({16}, {8}, {4})
            and ends in ({16}, {8})
            and not any(part.float8 for part in parts)
            and shape.activation == "silu"
            and shape.head_size in (64, 128)
            and shape.heads <= 8 * shape.kv_heads
            and shape.kv_heads <= programs
            and 1 < shape.layers <= 128
            and programs <= min(shape.hidden_size, shape.mlp_size)
            and max(rows) <= ROWS * programs
            and max(depths) <= _WIDEST
            and all(depth % {16: 8, 8: 128, 4: 256}[min(held | ends)] == 0 for depth in depths)
        )

    def logits(self, inputs_21: Tensor) -> Tensor:
        """[1, V] in bf16, valid until the next call.

        Args:
            inputs_21: the newest token and its position, int64; the key and the value of the token are in the cache
                then.
        """
        self._model.inputs = inputs_21.data_ptr()
        self._kernel(self._model)
        return self._logits

    def lost(self) -> bool:
        """Whether programs have waited for one another in vain, as where something else holds multiprocessors for long:
        logits are NaN since then. Waits for the GPU.
        """
        return bool(self._lost.item())


def _read(block: Block, cached: tuple[Tensor, Tensor]) -> tuple[Tensor | None, ...]:
    """What a layer reads, in the order of step_cuda.cu."""
    heads = [None if norm is None else norm.weight for norm in (block.q_norm, block.k_norm)]
    weights = chain.from_iterable(map(_weight, (block.qkv, block.o, block.gate_up, block.down)))
    return (block.attention_norm.weight, block.qkv.bias, *heads, block.mlp_norm.weight, *weights, *cached)


def _embedding(decoder: Decoder) -> Any:
    """What holds the embedding: a layer, or a weight of 8 bits."""
    embed: nn.Module = decoder.embed
    return embed.rows if isinstance(embed, Int8Embedding) else embed


def _held(part: Any) -> Any:
    """What has the weight of a projection, of the head, or of what holds the embedding."""
    quantised = getattr(part, "quantised", None)
    return part if quantised is None else quantised


def _weight(part: Any) -> tuple[Tensor | None, ...]:
    """A weight as it is held, and its scales."""
    held = _held(part)
    names = ("values", "scales") if isinstance(held, Int8) else ("words", "scales")
    return tuple(getattr(held, name) for name in names) if isinstance(held, Quantised) else (held.weight, None)


def _bits(part: Any) -> int:
    """Of a value of the weight: 16, 8 or 4; 0 where the kernel does not take it."""
    held = _held(part)
    if isinstance(held, Int8):
        return 8
    if isinstance(held, Quantised):  # of 4 bits the form for GPUs
        return 4 if hasattr(held, "words") and held.group == 64 else 0
    return 16 if held.weight.dtype == torch.bfloat16 else 0


def _addresses(parts: Iterable[Tensor | None]) -> list[int]:
    return [0 if part is None else part.data_ptr() for part in parts]


def on_gpu(device: torch.device, names: Mapping[str, int]) -> Kernel:
    """step_cuda.cu for a GPU: a program a multiprocessor, all of them at once. Raises NotBuilt."""
    about = torch.cuda.get_device_properties(device)
    programs, memory = about.multi_processor_count, about.shared_memory_per_block_optin  # type: ignore[attr-defined]
    threads = 32 * (names["WARPS"] + 1)  # one more fetches
    try:
        from cuda.bindings import driver

        function = _compiled(device, tuple({"PROGRAMS": programs, "MEMORY": memory, **names}.items()))
    except (ImportError, RuntimeError) as error:  # no compiler beside the driver, or one that doesn't know the GPU
        raise NotBuilt(str(error)) from error

    def kernel(model: Model) -> None:
        given = (ctypes.c_void_p * 1)(ctypes.addressof(model))
        sizes = (programs, 1, 1, threads, 1, 1, memory)
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream().cuda_stream
            _done(driver.cuLaunchCooperativeKernel(function, *sizes, stream, ctypes.addressof(given)))

    return kernel


@cache
def _compiled(device: torch.device, names: tuple[tuple[str, int], ...]) -> Any:
    from cuda.bindings import driver

    about = torch.cuda.get_device_properties(device)
    binary = compiled(f"sm_{about.major}{about.minor}", dict(names))
    with torch.cuda.device(device):
        function = _done(driver.cuModuleGetFunction(_done(driver.cuModuleLoadData(binary)), b"row_step"))
    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _done(driver.cuFuncSetAttribute(function, limit, dict(names)["MEMORY"]))
    return function


def compiled(architecture: str, names: Mapping[str, int]) -> bytes:
    """step_cuda.cu with these names, as a binary. RuntimeError with what the compiler says where it does not."""
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture={architecture}", "--std=c++17", "-default-device"]
    options += [f"-D{name}={size}" for name, size in names.items()]
    headers = [SOURCE.with_name(name).read_bytes() for name in INCLUDED]
    given = (SOURCE.read_bytes(), SOURCE.name.encode(), len(headers), headers, [name.encode() for name in INCLUDED])
    program = _done(nvrtc.nvrtcCreateProgram(*given))
    if int(nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]):
        log = b" " * _done(nvrtc.nvrtcGetProgramLogSize(program))
        _done(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"{SOURCE} does not compile: {log.rstrip(bytes(1)).decode()}")
    binary = b" " * _done(nvrtc.nvrtcGetCUBINSize(program))
    _done(nvrtc.nvrtcGetCUBIN(program, binary))
    _done(nvrtc.nvrtcDestroyProgram(program))
    return binary


def _done(answer: tuple[Any, ...]) -> Any:
    """What a call gave beside its status."""
    status, *given = answer
    if int(status):
        raise RuntimeError(f"CUDA: {status!r}")
    return given[0] if given else None
