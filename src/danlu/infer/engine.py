"""Batched generation: sequences join and leave between steps, each with its own settings."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from danlu.infer.cache import Cache
from danlu.infer.decode_cpu import fits, next_hidden
from danlu.infer.graphs import DecodingGraphs, PromptGraphs
from danlu.infer.sampling import History, choose, refuse_nan
from danlu.infer.score import ContinuationScore, require_tokens, score
from danlu.infer.settings import SamplingSettings
from danlu.infer.step_cpu import StepOnCPU
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder

Finish = Literal["stop", "length", "cancelled"]
BASE = -1  # the decoder without any adapter


@dataclass(frozen=True, slots=True)
class TokenLogp:
    """Log-probability of a chosen token under the model, before penalties and filters, and the likeliest tokens."""

    logp: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Event:
    """One new token of a request; `finish` says why it was the last. A stop token is no part of the answer."""

    request: Request
    token: int
    logp: TokenLogp | None
    finish: Finish | None


@dataclass(eq=False, slots=True)
class Request:
    """A prompt on its way through the engine.

    `watch` sees each new token in the thread that steps the engine; where it gives true, the answer ends there.
    """

    prompt: list[int]
    sampling: SamplingSettings
    stop_ids: frozenset[int]
    watch: Callable[[Event], bool] | None
    history: History
    limit: int
    adapter: int = BASE
    tokens: list[int] = field(default_factory=list)
    logps: list[TokenLogp] = field(default_factory=list)
    finish: Finish | None = None
    prefilled: int = 0  # prompt tokens in the cache

    @property
    def needs(self) -> int:
        """The cache length that it may grow to."""
        return len(self.prompt) + self.limit


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer's tokens without the stop token, and why it ended.

    Where the settings ask, `logps` has one entry a token, and one more for a stop token.
    """

    ids: list[int]
    finish: Finish
    logps: list[TokenLogp]


class Engine:
    """Generates and scores with one decoder. Every method may be called from any thread.

    At most `max_batch` sequences run at once, and their number times the longest stays within `max_tokens_in_cache`;
    others wait in order. Memory for the cache is taken as it is needed. One prefill call takes up to `prefill_tokens`,
    padding included; a longer prompt goes through in pieces, between which the others go on.

    A decoder on which `adapters` of them were loaded (`danlu.model.adapt.load_several`) answers each request with the
    one that it names, by number, or with none (`BASE`); `first` is that of requests that name none.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        max_batch: int = 64,
        max_tokens_in_cache: int = 65_536,
        prefill_tokens: int = 8_192,
        adapters: int = 0,
        first: int = BASE,
        device: torch.device | str | None = None,
    ) -> None:
        self.max_batch, self.prefill_tokens = max_batch, prefill_tokens
        self.decoder, self.adapters, self.first = decoder, adapters, first
        self.device = torch.device(device) if device is not None else next(decoder.parameters()).device
        self.window = decoder.settings.max_positions
        self._cache = Cache(max_batch, max_tokens_in_cache, decoder.settings.sliding_window)
        fit = DecodingGraphs.fit(decoder)
        self._graphs = DecodingGraphs(decoder, self._cache) if fit else None
        self._prompts = PromptGraphs(decoder, self._cache) if fit and not adapters else None
        self._step_on_cpu = StepOnCPU(decoder, self._cache) if StepOnCPU.fit(decoder) else None
        self._on_cpu = fits(decoder)
        self._waiting: deque[Request] = deque()
        self._rows: list[Request] = []
        self._begun: list[Request] = []  # the rows whose next step the GPU is at already
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that hold a row."""
        return len(self._rows)

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingSettings | None = None,
        stop_ids: Iterable[int] = (),
        watch: Callable[[Event], bool] | None = None,
        adapter: int | None = None,
    ) -> Request:
        """Puts a prompt in the queue. Raises UserError for a prompt that is empty or leaves no room for an answer, and
        for a reward model.
        """
        require_tokens(self.decoder)
        sampling = sampling or SamplingSettings()
        prompt = list(prompt_ids)
        window = min(self.window, self._cache.max_tokens)
        if not prompt:
            raise UserError("the prompt is empty", do="give at least one token")
        if len(prompt) >= window:
            raise UserError(
                f"the prompt has {len(prompt)} tokens and the window {window}, which leaves no room for an answer",
                do="shorten the prompt",
            )
        limit = min(sampling.max_tokens, window - len(prompt))
        history, chosen = History(sampling, prompt), self.first if adapter is None else adapter
        request = Request(prompt, sampling, frozenset(stop_ids), watch, history, limit, chosen)
        with self._lock:
            self._waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Ends a request that is not finished and frees its row."""
        with self._lock, torch.inference_mode():
            if request.finish is None:
                request.finish = "cancelled"
                self._leave(request)

    def step(self) -> list[Event]:
        """One token for every running sequence, after taking in those that wait; gives what is new."""
        with self._lock, torch.inference_mode():
            running = [request for request in self._rows if request.tokens]
            events = self._decode(running) if running else []
            self._admit()
            return events + self._prefill()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingSettings | None = None, stop_ids: Iterable[int] = ()
    ) -> list[Completion]:
        """The answers to all prompts, in their order."""
        stop = frozenset(stop_ids)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # equal lengths together: less padding
        requests = {i: self.submit(prompts[i], sampling, stop) for i in order}
        self.finish(requests.values())
        done = (requests[i] for i in range(len(prompts)))
        return [Completion(r.tokens, r.finish or "cancelled", r.logps) for r in done]

    def finish(self, requests: Iterable[Request]) -> None:
        """Steps until all `requests` have ended; on an error or Ctrl-C they are cancelled."""
        requests = list(requests)
        try:
            for request in requests:
                while request.finish is None:
                    self.step()
        finally:
            for request in requests:
                self.cancel(request)

    def stream(
        self, prompt_ids: Sequence[int], sampling: SamplingSettings | None = None, stop_ids: Iterable[int] = ()
    ) -> Iterator[int]:
        """The tokens of an answer as they come, without the stop token; closing the iterator frees the row."""
        request = self.submit(prompt_ids, sampling, stop_ids)
        given = 0
        try:
            while request.finish is None:
                self.step()
                yield from request.tokens[given:]
                given = len(request.tokens)
        finally:
            self.cancel(request)

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], adapter: int | None = None
    ) -> list[ContinuationScore]:
        """Log-likelihood of each continuation after its context; see `danlu.infer.score.score`."""
        with self._lock:
            return score(self.decoder, pairs, self.device, self.pick([self.first if adapter is None else adapter]))

    def pick(self, adapters: Sequence[int]) -> Tensor | None:
        """Which adapter each row takes, as the decoder is told [B, N]; None where all take the base."""
        if all(number == BASE for number in adapters):
            return None
        weight = self.decoder.norm.weight
        wanted = torch.tensor(adapters, device=self.device)[:, None]
        return (wanted == torch.arange(self.adapters, device=self.device)).to(weight.dtype)

    def _admit(self) -> None:
        longest = max((request.needs for request in self._rows), default=0)
        while self._waiting:
            longest = max(longest, self._waiting[0].needs)
            if not self._cache.fits(len(self._rows) + 1, longest):
                return
            self._rows.append(self._waiting.popleft())
            self._cache.reserve(len(self._rows), longest)

    def _prefill(self) -> list[Event]:
        """Runs the next prompts: as many as fit in one call, or a piece of a long one."""
        chosen: list[int] = []
        longest = 0
        for row, request in enumerate(self._rows):
            left = len(request.prompt) - request.prefilled
            if left <= 0:
                continue
            longest = max(longest, left)
            if chosen and (request.prefilled or (len(chosen) + 1) * longest > self.prefill_tokens):
                break
            chosen.append(row)
            if request.prefilled or left > self.prefill_tokens:
                break
        if not chosen:
            return []
        if self._step_on_cpu is not None:
            self._step_on_cpu.renew()  # a decoder that learns between answers may have put its weights elsewhere
        requests = [self._rows[row] for row in chosen]
        start = requests[0].prefilled
        alone = len(chosen) == 1 and not start and len(requests[0].prompt) <= self.prefill_tokens
        if self._prompts is not None and alone:
            logits_1V = self._prompts.logits(requests[0].prompt, chosen[0])
            if logits_1V is not None:
                requests[0].prefilled = len(requests[0].prompt)
                return self._extend(requests, logits_1V)
        pieces = [request.prompt[start : start + self.prefill_tokens] for request in requests]
        width = max(map(len, pieces))
        tokens_BT = torch.tensor([piece + [0] * (width - len(piece)) for piece in pieces], device=self.device)
        positions_BT = torch.arange(start, start + width, device=self.device).expand_as(tokens_BT)
        attend = self._cache.prefill(torch.tensor(chosen, device=self.device), positions_BT, start)
        hidden_BTD = self.decoder(tokens_BT, positions_BT, attend, self.pick([one.adapter for one in requests]))
        for request, piece in zip(requests, pieces, strict=True):
            request.prefilled += len(piece)
        if requests[0].prefilled < len(requests[0].prompt):
            return []
        last_B = torch.tensor([len(piece) - 1 for piece in pieces], device=self.device)
        rows_B = torch.arange(len(pieces), device=self.device)
        return self._extend(requests, self.decoder.head.logits(hidden_BTD[rows_B, last_B]).float())

    def _decode(self, running: list[Request]) -> list[Event]:
        # A row whose prompt is still coming in takes part with its next position, which the prompt overwrites later.
        places = [
            len(request.prompt) + len(request.tokens) - 1 if request.tokens else request.prefilled
            for request in self._rows
        ]
        last = [request.tokens[-1] if request.tokens else 0 for request in self._rows]
        if self._graphs is not None and len(running) == len(self._rows) and all(map(_greedy, running)):
            return self._decode_ahead(self._graphs, last, places)
        self._begun = []  # this step takes the place of what was begun
        logits_BV = self._next_logits(last, places)
        if len(running) < len(self._rows):
            logits_BV = logits_BV[[row for row, request in enumerate(self._rows) if request.tokens]]
        return self._extend(running, logits_BV)

    def _decode_ahead(self, graphs: DecodingGraphs, tokens: list[int], places: list[int]) -> list[Event]:
        """A step of rows that all take the likeliest token; the next one is begun before this one is read, unless a row
        is known to end here. Where one ends unforeseen, what was begun is for nothing."""
        rows = list(self._rows)
        goes_on = all(len(request.tokens) + 1 < request.limit for request in rows)
        pick_BN = self.pick([request.adapter for request in rows])
        chosen, missing = graphs.likeliest(tokens, places, pick_BN, begun=self._begun == rows, goes_on=goes_on)
        self._begun = rows if goes_on else []
        refuse_nan(missing)
        return [self._take(request, token, None) for request, token in zip(rows, chosen, strict=True)]

    def _next_logits(self, tokens: list[int], places: list[int]) -> Tensor:
        pick_BN = self.pick([request.adapter for request in self._rows])
        if self._graphs is not None:
            return self._graphs.logits(tokens, places, pick_BN)
        if self._step_on_cpu is not None:
            return self._step_on_cpu.logits(tokens, places, pick_BN)
        tokens_B, positions_B = torch.tensor([tokens, places], device=self.device).unbind(0)
        attend = self._cache.decode(positions_B[:, None], places)
        if self._on_cpu:
            hidden_BD = next_hidden(self.decoder, tokens_B, positions_B, attend)
        else:
            hidden_BD = self.decoder(tokens_B[:, None], positions_B[:, None], attend, pick_BN)[:, 0]
        return self.decoder.head.logits(hidden_BD).float()

    def _extend(self, requests: list[Request], logits_BV: Tensor) -> list[Event]:
        wanted = [request.sampling.logprobs for request in requests]
        logp_BV = logits_BV.log_softmax(-1) if any(count is not None for count in wanted) else None
        chosen = choose(logits_BV, [request.history for request in requests])
        logps = _logps(logp_BV, chosen, wanted) if logp_BV is not None else [None] * len(chosen)
        return [self._take(*new) for new in zip(requests, chosen, logps, strict=True)]

    def _take(self, request: Request, token: int, logp: TokenLogp | None) -> Event:
        stopped = token in request.stop_ids
        if logp is not None:
            request.logps.append(logp)
        if not stopped:
            request.tokens.append(token)
            request.history.add(token)
        if stopped:
            request.finish = "stop"
        elif len(request.tokens) >= request.limit:
            request.finish = "length"
        event = Event(request, token, logp, request.finish)
        if request.watch is not None and request.watch(event) and not stopped:
            request.finish = "stop"
            event = Event(request, token, logp, "stop")
        if request.finish is not None:
            self._leave(request)
        return event

    def _leave(self, request: Request) -> None:
        """Frees the row; the last row moves into it, so that those in use stay together."""
        if request not in self._rows:
            if request in self._waiting:
                self._waiting.remove(request)
            return
        row = self._rows.index(request)
        last = self._rows.pop()
        if last is not request:
            self._cache.move(len(self._rows), row, max(last.prefilled, len(last.prompt) + len(last.tokens)))
            self._rows[row] = last


def _greedy(request: Request) -> bool:
    return request.history.greedy and request.sampling.logprobs is None


def _logps(logp_BV: Tensor, chosen: list[int], wanted: list[int | None]) -> list[TokenLogp | None]:
    own = logp_BV.gather(1, torch.tensor(chosen, device=logp_BV.device)[:, None])[:, 0].tolist()
    most = max(count or 0 for count in wanted)
    top, ids = (part.tolist() for part in logp_BV.topk(most))
    return [
        None if count is None else TokenLogp(own[row], list(zip(ids[row], top[row], strict=True))[:count])
        for row, count in enumerate(wanted)
    ]
