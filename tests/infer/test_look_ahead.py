"""Greedy steps that are begun before the last one is read, and prompts by graphs, over stand-ins for a GPU's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.infer import engine as module
from danlu.infer import graphs
from danlu.infer.cache import Cache, Causal
from danlu.infer.engine import BASE, Engine
from danlu.infer.graphs import CapturedPrompt, PromptGraphs
from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape
from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings

from .drawn import with_adapters

SHAPE = ModelSettings(vocab_size=50, hidden_size=24, layers=2, heads=4, kv_heads=2, mlp_size=32, max_positions=64)


class EagerGraphs:
    """Computes at once what a GPU is asked for ahead, with the tokens that it has itself chosen."""

    begun: ClassVar[int] = 0

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder, self._cache = decoder, cache
        self._ahead: tuple[list[int], list[int], Tensor] | None = None

    @staticmethod
    def fit(decoder: Decoder) -> bool:
        return True

    def logits(self, tokens: list[int], positions: list[int], pick_BN: Tensor | None = None) -> Tensor:
        tokens_B1, positions_B1 = torch.tensor([tokens, positions])[:, :, None].unbind(0)
        attend = self._cache.decode(positions_B1, positions)
        return self._decoder.head.logits(self._decoder(tokens_B1, positions_B1, attend, pick_BN)[:, 0]).float()

    def likeliest(
        self, tokens: list[int], positions: list[int], pick_BN: Tensor | None = None, *, begun: bool, goes_on: bool
    ) -> list[list[int]]:
        ahead, self._ahead = self._ahead, None
        if begun and ahead is not None:
            assert ahead[:2] == (tokens, positions)
            logits_BV = ahead[2]
            EagerGraphs.begun += 1
        else:
            logits_BV = self.logits(tokens, positions, pick_BN)
        chosen = logits_BV.argmax(-1).tolist()
        if goes_on:
            following = [place + 1 for place in positions]
            self._ahead = chosen, following, self.logits(chosen, following, pick_BN)
        return [chosen, logits_BV.isnan().any(-1).long().tolist()]


class Again:
    """Computes anew what a GPU would run again."""

    times: ClassVar[int] = 0

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run

    def replay(self) -> None:
        Again.times += 1
        self._run()


class EagerPrompts(PromptGraphs):
    def _capture(self, inputs: Tensor) -> CapturedPrompt:
        logits = torch.empty(1, SHAPE.vocab_size)
        return CapturedPrompt(Again(lambda: logits.copy_(self._logits(inputs))), inputs, logits)  # type: ignore


def on_graphs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "DecodingGraphs", EagerGraphs)
    patch.setattr(module, "PromptGraphs", EagerPrompts)
    patch.setattr(graphs, "SHORTEST", 4)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    made = Decoder(SHAPE)
    initialise(made, 0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.3)
    return made


@pytest.fixture(scope="module")
def adapted(decoder: Decoder) -> Decoder:
    """The same with two adapters, to be chosen by row."""
    return with_adapters(copy.deepcopy(decoder), AdapterShape(rank=2), AdapterShape(rank=3), size=0.5)


@torch.no_grad()
def without_cache(decoder: Decoder, prompt: list[int], count: int, adapter: int = BASE) -> list[int]:
    ids = list(prompt)
    picks = None if adapter == BASE else (torch.arange(2) == adapter)[None].float()
    for _ in range(count):
        hidden = decoder(torch.tensor([ids]), torch.arange(len(ids))[None], Causal(), picks)
        ids.append(int(decoder.head.logits(hidden[0, -1]).argmax()))
    return ids[len(prompt) :]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sequences_come_and_go_and_every_answer_is_its_own(decoder: Decoder, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        on_graphs(patch)
        engine = Engine(decoder, max_batch=3, prefill_tokens=8)
        asked: list[tuple[Any, list[int], int, int | None]] = []
        for _ in range(data.draw(st.integers(1, 6))):
            prompt = data.draw(st.lists(st.integers(0, 49), min_size=1, max_size=12))
            most = data.draw(st.integers(1, 9))
            truth = without_cache(decoder, prompt, most)
            stop = data.draw(st.sampled_from([None, *truth]))
            cold = SamplingSettings(max_tokens=most, temperature=0)
            asked.append((engine.submit(prompt, cold, [] if stop is None else [stop]), truth, most, stop))
            for _ in range(data.draw(st.integers(0, 4))):
                engine.step()
            if data.draw(st.integers(0, 5)) == 0:
                engine.cancel(asked[-1][0])
        engine.finish([request for request, *_ in asked])
    for request, truth, most, stop in asked:
        wanted = truth[: truth.index(stop)] if stop in truth else truth
        if request.finish == "cancelled":
            wanted = wanted[: len(request.tokens)]
        assert request.tokens == wanted and len(wanted) <= most


@settings(max_examples=20, deadline=None)
@given(asked=st.lists(st.tuples(st.sampled_from([BASE, 0, 1]), st.integers(1, 6), st.integers(0, 3)), max_size=5))
def test_each_answer_is_its_own_adapters(adapted: Decoder, asked: list[tuple[int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        on_graphs(patch)
        engine = Engine(adapted, max_batch=3, prefill_tokens=8, adapters=2)
        requests = []
        for number, (adapter, most, steps) in enumerate(asked):
            sampling = SamplingSettings(max_tokens=most, temperature=0)
            requests.append(engine.submit([7, number], sampling, adapter=adapter))
            for _ in range(steps):
                engine.step()
        engine.finish(requests)
    for number, ((adapter, most, _), request) in enumerate(zip(asked, requests, strict=True)):
        assert request.tokens == without_cache(adapted, [7, number], most, adapter)


def test_steps_are_begun_ahead_and_only_where_nothing_but_the_likeliest_token_is_asked(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_graphs(monkeypatch)
    monkeypatch.setattr(EagerGraphs, "begun", 0)
    engine = Engine(decoder)
    engine.generate([[1, 2, 3]], SamplingSettings(max_tokens=8, temperature=0))
    assert EagerGraphs.begun == 6  # the first comes from the prompt, and before the second nothing was begun
    others: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"repetition_penalty": 1.2},
        {"no_repeat_ngram": 3},
        {"logprobs": 1},
    ]
    for other in others:
        engine.generate([[1, 2, 3]], SamplingSettings(max_tokens=8, **{"temperature": 0, **other}))
    assert EagerGraphs.begun == 6


def test_what_was_begun_is_forgotten_where_a_long_prompt_came_between(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_graphs(monkeypatch)
    engine, cold = Engine(decoder, prefill_tokens=8), SamplingSettings(max_tokens=6, temperature=0)
    first = engine.submit([0], cold)
    engine.step()
    engine.step()
    second = engine.submit([0] * 9, SamplingSettings(max_tokens=1, temperature=0))  # in two pieces, and gone at once
    engine.finish([first, second])
    assert first.tokens == without_cache(decoder, [0], 6) and second.tokens == without_cache(decoder, [0] * 9, 1)


def test_logits_that_are_no_numbers_end_the_answer(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    on_graphs(monkeypatch)
    engine = Engine(decoder)
    request = engine.submit([1, 2, 3], SamplingSettings(max_tokens=8, temperature=0))
    engine.step()
    monkeypatch.setattr(EagerGraphs, "logits", lambda self, tokens, *_: torch.full((len(tokens), 50), float("nan")))
    with pytest.raises(UserError, match="NaN"):
        engine.finish([request])
    assert engine.running == 0


def test_prompts_that_come_alone_have_a_graph_from_the_second_of_a_size_on(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_graphs(monkeypatch)
    monkeypatch.setattr(Again, "times", 0)
    engine, cold = Engine(decoder, prefill_tokens=16), SamplingSettings(max_tokens=4, temperature=0)
    for prompt, known in [([1, 2, 3], 0), ([4, 5], 1), ([6, 7, 8, 9, 1], 1), ([9, 8, 7, 6, 5, 4, 3], 2), ([1] * 20, 2)]:
        assert engine.generate([prompt], cold)[0].ids == without_cache(decoder, prompt, 4)
        assert Again.times == known
    both = [[1, 2, 3], [3, 2]]
    assert [done.ids for done in engine.generate(both, cold)] == [without_cache(decoder, one, 4) for one in both]
    assert Again.times == known, "together they are one batch"
