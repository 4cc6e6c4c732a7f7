"""Decoding steps and short prompts on a GPU as CUDA graphs: a pass of a small model is hundreds of kernels that take
longer to ask for than to run, and a graph asks for all of them at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from danlu.infer.cache import Cache
from danlu.infer.step_cuda import NotBuilt, RowStep
from danlu.model.adapters import Several
from danlu.model.attention import HALF
from danlu.model.decoder import Block, Decoder
from danlu.model.projection import Projection
from danlu.model.rope import Rope

HEAD_SIZES = (32, 64, 128, 256)
SHORTEST, LONGEST = 16, 1024  # prompts for which there are graphs; longer ones keep the GPU busy by themselves

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of positions, float32 [L, D / 2]."""


@dataclass(frozen=True)
class Captured:
    """A graph, where it reads (tokens and positions, int64 [2, B]; which adapters rows take, [B, N]) and where it
    writes: logits ([B, V] in the weights' dtype), and the likeliest tokens beside whether the logits hold NaN (int64
    [2, B]).

    The likeliest tokens and their positions are in `inputs` when it has run: run again, it goes on with them.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    picks: Tensor | None
    logits: Tensor
    likeliest: Tensor
    told: Tensor
    """In memory that the GPU writes to by itself: a copy to any other waits until the step is over."""


class DecodingGraphs:
    """The logits of the next token of rows 0 … B-1 of the cache, for decoders that `fit`.

    A graph is captured for each power of two of rows when it is first needed, with adapters and without, and all anew
    when the cache moved. Rows beyond those asked for compute on position 0 of cache rows that nobody uses.
    """

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder, self._cache = decoder, cache
        self._captured: dict[tuple[int, int], Captured] = {}
        self._moves = 0
        self._ahead: Captured | None = None
        self._alone: RowStep | None = None
        self._one_kernel = RowStep.fit(decoder)

    @staticmethod
    def fit(decoder: Decoder) -> bool:
        """Whether the kernels here can compute it: 16-bit weights on a GPU, rotary positions, no trained adapter."""
        weight = decoder.norm.weight
        scaling = decoder.settings.rope_scaling
        return (
            weight.is_cuda
            and weight.dtype in HALF
            and isinstance(decoder.places, Rope)
            and (scaling is None or scaling.type != "dynamic")
            and decoder.settings.head_size in HEAD_SIZES
            and all(
                part.adapters is None or isinstance(part.adapters, Several)
                for block in blocks_of(decoder)
                for part in projections(block)
            )
        )

    def logits(self, tokens: list[int], positions: list[int], pick_BN: Tensor | None = None) -> Tensor:
        """float32 [B, V]; `tokens` are the newest of each row, at `positions`; `pick_BN` as the decoder takes it."""
        found = self._run(tokens, positions, pick_BN).logits[: len(tokens)].float()
        return self.logits(tokens, positions, pick_BN) if len(tokens) == 1 and self._gave_up() else found

    def likeliest(
        self, tokens: list[int], positions: list[int], pick_BN: Tensor | None = None, *, begun: bool, goes_on: bool
    ) -> list[list[int]]:
        """The token of the greatest logit for each row, and whether its logits hold NaN (0 or 1).

        Args:
            goes_on: the step that follows is begun with these tokens before they are read here, so that the GPU works
                on while the host reads and takes note of them.
            begun: this is that step: the last call had `goes_on`, and the rows are those of that call.
        """
        ahead, self._ahead = self._ahead, None
        step = ahead if begun and ahead is not None and not self._moved() else self._run(tokens, positions, pick_BN)
        step.told.copy_(step.likeliest, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        if goes_on:
            step.graph.replay()
            self._ahead = step
        done.synchronize()
        found = [part[: len(tokens)] for part in step.told.tolist()]
        if any(found[1]) and self._gave_up():
            return self.likeliest(tokens, positions, pick_BN, begun=False, goes_on=goes_on)
        return found

    def _row_step(self) -> RowStep | None:
        if not self._one_kernel:
            return None
        try:
            return RowStep(self._decoder, self._cache, self._turns)
        except NotBuilt as error:
            warnings.warn(f"no kernel of its own for one sequence ({error}): several kernels go on", stacklevel=2)
            self._one_kernel = False
            return None

    def _gave_up(self) -> bool:
        """Whether the one kernel was of no use; it is not taken again then."""
        if self._alone is None or not self._alone.lost():
            return False
        warnings.warn("the kernel for one sequence waited in vain on this GPU: several kernels go on", stacklevel=2)
        self._captured.clear()
        self._alone, self._ahead, self._one_kernel = None, None, False
        return True

    def _moved(self) -> bool:
        # An address would not do: memory that was given back is given out again.
        return self._cache.moves != self._moves

    def _run(self, tokens: list[int], positions: list[int], pick_BN: Tensor | None) -> Captured:
        if self._moved():
            self._captured.clear()
            self._pool = torch.cuda.graph_pool_handle()
            self._turns = turns_of(self._decoder, self._cache)
            self._alone = self._row_step()
            self._moves = self._cache.moves
        rows = min(1 << (len(tokens) - 1).bit_length(), self._cache.rows)
        adapters = 0 if pick_BN is None else pick_BN.shape[1]
        if (rows, adapters) not in self._captured:
            self._captured[rows, adapters] = self._capture(rows, adapters)
        step = self._captured[rows, adapters]
        if step.picks is not None and pick_BN is not None:
            step.picks[: len(tokens)].copy_(pick_BN)
        unused = [0] * (rows - len(tokens))
        step.inputs.copy_(torch.tensor([tokens + unused, positions + unused]))
        step.graph.replay()
        return step

    def _capture(self, rows: int, adapters: int) -> Captured:
        weight = self._decoder.norm.weight
        inputs = torch.zeros(2, rows, dtype=torch.int64, device=weight.device)
        picks = weight.new_zeros(rows, adapters) if adapters else None
        # What the trial writes at position 0 is put back: rows in use have keys and values there.
        kept = [(keys[:rows, 0].clone(), values[:rows, 0].clone()) for keys, values in self._cache.layers]
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):  # kernels are compiled and libraries make their plans before anything is captured
                self._next(inputs.zero_(), picks)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits, likeliest = self._next(inputs, picks)
        for (keys, values), (old_keys, old_values) in zip(self._cache.layers, kept, strict=True):
            keys[:rows, 0], values[:rows, 0] = old_keys, old_values
        told = torch.empty(likeliest.shape, dtype=likeliest.dtype, pin_memory=True)
        return Captured(graph, inputs, picks, logits, likeliest, told)

    def _next(self, inputs_2B: Tensor, pick_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._alone is None or inputs_2B.shape[1] > 1 or pick_BN is not None:
            return next_tokens(self._decoder, self._cache, inputs_2B, self._turns, pick_BN)
        from danlu.infer.tokens_cuda import take_likeliest

        logits_1V = self._alone.logits(inputs_2B)
        return logits_1V, take_likeliest(logits_1V, inputs_2B, self._alone.tickets_1K, self._cache.length)


@dataclass(frozen=True)
class CapturedPrompt:
    """A graph, where it reads (the tokens of a prompt, the place of its last one and its row, int64 [T + 2]), and the
    logits that it writes (float32 [1, V]).
    """

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


class PromptGraphs:
    """The logits after a prompt that comes alone, for decoders that `DecodingGraphs.fit`, without adapters.

    Prompts are filled up to a power of two. The first of a size is left to the decoder, as most programs that ask once
    never ask again; from the second on there is a graph.
    """

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder, self._cache = decoder, cache
        self._captured: dict[int, CapturedPrompt] = {}
        self._met: set[int] = set()
        self._moves = 0

    def logits(self, prompt: list[int], row: int) -> Tensor | None:
        """float32 [1, V], valid until the next call; keys and values are then in that row of the cache. None where
        there is no graph for it.
        """
        width = max(SHORTEST, 1 << (len(prompt) - 1).bit_length())
        if width > min(LONGEST, self._cache.length):
            return None
        if width not in self._met:
            self._met.add(width)
            return None
        if self._cache.moves != self._moves:
            self._captured.clear()
            self._moves = self._cache.moves
        inputs = torch.tensor([*prompt, *[0] * (width - len(prompt)), len(prompt) - 1, row])
        if width not in self._captured:
            self._captured[width] = self._capture(inputs.to(self._decoder.norm.weight.device))
        step = self._captured[width]
        step.inputs.copy_(inputs)
        step.graph.replay()
        return step.logits

    def _capture(self, inputs: Tensor) -> CapturedPrompt:
        # What the trial writes into the cache is what this prompt is to write.
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._logits(inputs)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._logits(inputs)
        return CapturedPrompt(graph, inputs, logits)

    def _logits(self, inputs: Tensor) -> Tensor:
        tokens_1T, last_1, row_1 = inputs[None, :-2], inputs[-2:-1], inputs[-1:]
        positions_1T = torch.arange(tokens_1T.shape[1], device=inputs.device)[None]
        hidden_1TD = self._decoder(tokens_1T, positions_1T, self._cache.prefill(row_1, positions_1T, 0))
        return self._decoder.head.logits(hidden_1TD[0, last_1]).float()


def projections(block: Block) -> tuple[Projection, ...]:
    """The four of a block."""
    return block.qkv, block.o, block.gate_up, block.down


def blocks_of(decoder: Decoder) -> list[Block]:
    """The decoder's blocks, by their type."""
    return [cast(Block, block) for block in decoder.blocks]


def turns_of(decoder: Decoder, cache: Cache) -> Turns:
    """Of all positions in the cache: 512 bytes each where heads are of 128."""
    weight = decoder.norm.weight
    cos, sin = decoder.places(torch.arange(cache.length, device=weight.device)[:, None], weight.dtype)
    return cos.flatten(1), sin.flatten(1)


def next_tokens(
    decoder: Decoder, cache: Cache, inputs_2B: Tensor, turns: Turns, pick_BN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `Decoder.forward` over `Cache.decode` and the head give, by fewer kernels: logits [B, V] after the tokens
    and positions of `inputs_2B` (int64), and the likeliest tokens beside whether the logits hold NaN (int64 [2, B]).

    `inputs_2B` are the likeliest tokens at their positions then.
    """
    from danlu.infer.decode_cuda import attend_next
    from danlu.infer.inputs_cuda import add_and_norm
    from danlu.infer.products_cuda import normed_product, partial_products
    from danlu.infer.tokens_cuda import embedded, take_likeliest

    tokens_B, positions_B = inputs_2B.unbind(0)
    (x_BD, tickets_BK), parts = embedded(decoder, tokens_B), None
    for number, block in enumerate(blocks_of(decoder)):
        norms = (block.q_norm, block.k_norm) if block.q_norm is not None and block.k_norm is not None else None
        x_BD, qkv = normed_product(x_BD, parts, block.attention_norm, block.qkv, pick_BN=pick_BN)
        o = attend_next(qkv, *turns, norms, *cache.layers[number], positions_B, tickets_BK, cache.window)
        parts = partial_products(o, block.o, pick_BN)
        x_BD, inner = normed_product(x_BD, parts, block.mlp_norm, block.gate_up, block.activation, pick_BN=pick_BN)
        parts = partial_products(inner, block.down, pick_BN)
    logits_BV = decoder.head.logits(add_and_norm(x_BD, parts, decoder.norm))
    return logits_BV, take_likeliest(logits_BV, inputs_2B, tickets_BK, cache.length)
