"""The engine against transformers, against itself without a cache, and under random comings and goings."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from danlu.infer.cache import Cache, Causal
from danlu.infer.engine import Engine, Request
from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder
from danlu.model.settings import ModelSettings

SHAPE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 12},
    "llama": {"num_key_value_heads": 1},
    "mistral": {"sliding_window": 6},
}


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 120, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    shape = ModelSettings(
        family="mistral", vocab_size=120, hidden_size=24, layers=2, heads=4, kv_heads=2, mlp_size=32,
        max_positions=48, sliding_window=7, tie_embeddings=False,
    )  # fmt: skip
    decoder, generator = Decoder(shape), torch.Generator().manual_seed(1)
    for weight in decoder.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.6, generator=generator)
    return decoder


@torch.no_grad()
def greedy_without_cache(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        positions = torch.arange(len(ids))[None]
        hidden = decoder(torch.tensor([ids]), positions, Causal(decoder.settings.sliding_window))
        ids.append(int(decoder.head.logits(hidden[0, -1]).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_scores_equal_transformers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    reference = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE | FAMILIES[family])).eval()
    reference.save_pretrained(tmp_path)
    # Four rows for nine prompts, and prompts longer than a prefill call: all ways through the engine.
    engine = Engine(load_decoder(tmp_path), max_batch=4, prefill_tokens=16)
    asked = prompts([1, 40, 9, 17, 3, 16, 33, 2, 25])
    answers = engine.generate(asked, SamplingSettings(max_tokens=12, logprobs=0))
    scores = engine.score([(prompt, answer.ids) for prompt, answer in zip(asked, answers, strict=True)])
    compared = 0
    for prompt, answer, score in zip(asked, answers, scores, strict=True):
        ids = torch.tensor([prompt])
        expected = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for step, logits in enumerate(expected.logits):
            best = logits[0].topk(2)
            if best.values[0] - best.values[1] < 1e-3:
                break
            assert answer.ids[step] == best.indices[0]
            logp = logits[0].log_softmax(-1)[answer.ids[step]].item()
            assert score.logps[step] == pytest.approx(logp, abs=1e-4)
            assert answer.logps[step].logp == pytest.approx(logp, abs=1e-4)
            compared += 1
        assert score.greedy and score.logp == pytest.approx(sum(score.logps))
    assert compared > 90 and engine.running == engine.waiting == 0


def test_choices_of_one_token_share_their_context(decoder: Decoder) -> None:
    engine = Engine(decoder)
    context = prompts([20])[0]
    pairs = [(context, [letter]) for letter in (5, 6, 7, 8)] + [(context[:9], [1, 2, 3]), (context, [])]
    scores = engine.score(pairs)
    with torch.no_grad():
        hidden = decoder(torch.tensor([context]), torch.arange(20)[None], Causal(7))
        logp = decoder.head.logits(hidden[0, -1]).log_softmax(-1)
    assert [score.logp for score in scores[:4]] == pytest.approx(logp[5:9].tolist(), abs=1e-5)
    assert [len(score.logps) for score in scores] == [1, 1, 1, 1, 3, 0]
    assert [score.greedy for score in scores[:4]] == [letter == logp.argmax() for letter in (5, 6, 7, 8)]


def test_an_answer_does_not_depend_on_its_company(decoder: Decoder) -> None:
    sampling = SamplingSettings(
        temperature=0.9, top_p=0.95, min_p=0.01, repetition_penalty=1.2, no_repeat_ngram=3, seed=11, max_tokens=20
    )
    alone = Engine(decoder).generate([prompts([7])[0]], sampling)[0].ids
    engine = Engine(decoder, max_batch=3)
    others = [
        engine.submit(prompt, SamplingSettings(temperature=1.5, max_tokens=5 + i))
        for i, prompt in enumerate(prompts([20, 3, 11, 5, 9, 2], seed=3))
    ]
    request = engine.submit(prompts([7])[0], sampling)
    engine.finish([request, *others])
    assert request.tokens == alone and len(set(alone)) > 5
    assert Engine(decoder).generate([prompts([7])[0]], sampling.model_copy(update={"seed": 12}))[0].ids != alone


def test_ends(decoder: Decoder) -> None:
    engine, prompt = Engine(decoder), prompts([6])[0]
    free = engine.generate([prompt], SamplingSettings(max_tokens=20, logprobs=2))[0]
    assert (free.finish, len(free.ids)) == ("length", 20)
    stop = free.ids[8]
    first = free.ids.index(stop)
    stopped = engine.generate([prompt], SamplingSettings(max_tokens=20, logprobs=2), [stop])[0]
    assert (stopped.finish, stopped.ids, len(stopped.logps)) == ("stop", free.ids[:first], first + 1)
    assert all(entry.logp == pytest.approx(entry.top[0][1]) and len(entry.top) == 2 for entry in free.logps)
    window = engine.generate([prompts([40])[0]], SamplingSettings(max_tokens=500))[0]
    assert (window.finish, len(window.ids)) == ("length", 8)
    watched = engine.submit(prompt, SamplingSettings(max_tokens=20), (), lambda event: event.token == free.ids[3])
    engine.finish([watched])
    assert (watched.finish, watched.tokens) == ("stop", free.ids[: free.ids.index(free.ids[3]) + 1])


def test_prompts_that_cannot_be_answered(decoder: Decoder) -> None:
    with pytest.raises(UserError, match="48 tokens and the window 48"):
        Engine(decoder).submit([1] * 48)
    with pytest.raises(UserError, match="the window 16"):
        Engine(decoder, max_tokens_in_cache=16).submit([1] * 16)
    with pytest.raises(UserError, match="empty"):
        Engine(decoder).submit([])
    with pytest.raises(UserError, match="empty context"):
        Engine(decoder).score([([], [1])])
    with pytest.raises(UserError, match="pair 1 has 52 tokens"):
        Engine(decoder).score([([1], [1]), ([1] * 50, [1, 2, 3])])


def test_streams_give_their_row_back(decoder: Decoder) -> None:
    engine, prompt = Engine(decoder), prompts([6])[0]
    expected = greedy_without_cache(decoder, prompt, 9)
    assert list(engine.stream(prompt, SamplingSettings(max_tokens=9))) == expected
    stream = engine.stream(prompt, SamplingSettings(max_tokens=9))
    assert [next(stream), next(stream)] == expected[:2] and engine.running == 1
    stream.close()
    assert engine.running == 0


def test_many_threads(decoder: Decoder) -> None:
    engine, answers = Engine(decoder, max_batch=3), {}

    def ask(number: int) -> None:
        answers[number] = engine.generate(prompts([5, 8], seed=number), SamplingSettings(max_tokens=6))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    for number in range(6):
        expected = [greedy_without_cache(decoder, prompt, 6) for prompt in prompts([5, 8], seed=number)]
        assert [answer.ids for answer in answers[number]] == expected


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=10),
    counts=st.lists(st.integers(1, 9), min_size=10, max_size=10),
    comings=st.lists(st.integers(0, 6), min_size=10, max_size=10),
    cancelled=st.dictionaries(st.integers(0, 9), st.integers(0, 8)),
    rows=st.integers(1, 5),
    tokens=st.integers(48, 150),
    piece=st.integers(4, 60),
)
def test_comings_and_goings(
    decoder: Decoder,
    lengths: list[int],
    counts: list[int],
    comings: list[int],
    cancelled: dict[int, int],
    rows: int,
    tokens: int,
    piece: int,
) -> None:
    engine = Engine(decoder, max_batch=rows, max_tokens_in_cache=tokens, prefill_tokens=piece)
    requests: dict[int, Request] = {}
    for step in range(400):
        for number, prompt in enumerate(prompts(lengths)):
            if comings[number] == step:
                requests[number] = engine.submit(prompt, SamplingSettings(max_tokens=counts[number]))
            if number in requests and cancelled.get(number) == step:
                engine.cancel(requests[number])
        events = engine.step()
        assert engine.running <= rows
        assert all(event.request.tokens[-1] == event.token for event in events)
        if len(requests) == len(lengths) and not engine.running and not engine.waiting:
            break
    for number, prompt in enumerate(prompts(lengths)):
        expected = greedy_without_cache(decoder, prompt, min(counts[number], 48 - len(prompt)))
        request = requests[number]
        assert request.tokens == expected[: len(request.tokens)]
        assert request.finish == ("length" if len(request.tokens) == len(expected) else "cancelled")
        assert request.finish == "length" or number in cancelled


def test_the_cache_grows_within_its_bound_and_keeps_what_it_holds() -> None:
    cache = Cache(max_rows=8, max_tokens=600)
    assert cache.fits(2, 300) and not cache.fits(3, 300) and not cache.fits(9, 1)
    cache.reserve(1, 70)
    k = torch.arange(10.0).reshape(1, 10, 1, 1)
    cache.prefill(torch.tensor([0]), torch.arange(10)[None], 0)(0, k, k, -k)
    for rows, length in ((2, 70), (3, 128), (4, 150), (2, 300)):
        cache.reserve(rows, length)
        assert cache.rows >= rows and cache.length >= length and cache.rows * cache.length <= 600
        keys, values = cache.layers[0]
        assert keys[0, :10].flatten().tolist() == [-x for x in values[0, :10].flatten().tolist()] == list(range(10))
