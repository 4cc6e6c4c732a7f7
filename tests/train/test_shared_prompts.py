"""A prompt that both answers of a pair share is computed once: every value and gradient as when it is told twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.tokens.batch import Batch, Placed, Shape, make_batch, sharing
from danlu.tokens.encode import Encoded
from danlu.train.network import Network, in_its_form
from danlu.train.objectives.pairs import document_logp
from danlu.train.settings import TrainSettings
from danlu.train.step import work_of

ROWS = 12
ALIBI = ModelSettings(
    family="baichuan",
    positions="alibi",
    vocab_size=tiny.VOCABULARY,
    hidden_size=16,
    layers=2,
    heads=4,
    mlp_size=32,
    max_positions=128,
    init_std=0.1,
)
CPU = torch.device("cpu")


def placed(tokens: list[int], prompt: int, pair: int, chosen: int) -> Placed:
    weights = (np.arange(len(tokens)) >= prompt).astype(np.float32)
    encoded = Encoded(np.array(tokens, np.uint32), weights, *[tiny.NONE] * 4, len(tokens))
    return Placed(encoded, 0, 2 * pair + 1 - chosen, pair, chosen)


@st.composite
def pairs(draw: st.DrawFn) -> list[tuple[Placed, Placed]]:
    found = []
    for number in range(draw(st.integers(1, 5))):
        prompt = draw(st.lists(st.integers(0, 250), max_size=20))
        answers = [draw(st.lists(st.integers(0, 3), min_size=1, max_size=12)) for _ in range(2)]
        one, two = (placed(prompt + answer, len(prompt), number, 1 - side) for side, answer in enumerate(answers))
        found.append((one, two))
    return found


def batch_of(pairs: list[tuple[Placed, Placed]], shared: bool) -> Batch[Tensor]:
    run = [one for pair in pairs for one in (sharing(pair, 0.0) if shared else pair)]
    return make_batch([run], Shape(ROWS, tiny.LENGTH, 8, shares=shared)).torch()


def network_of(shape: ModelSettings) -> Network:
    decoder = Decoder(shape).double()
    initialise(decoder, 3)
    return Network(decoder, torch.float64)


def values(network: Network, batch: Batch[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Of each document in its pair's order: log-probability and last hidden state; gradients of something of all."""
    logp_D, _ = document_logp(network, batch)
    last_DD = network.hidden(batch)[batch.cu[1:].long() - 1]
    real = torch.nonzero(batch.doc["index"] >= 0).flatten()
    real = real[batch.doc["index"][real].argsort()]
    logp, last = logp_D[real], last_DD[real]
    weights = torch.arange(1, len(real) + 1)
    loss = (logp * weights.sin()).sum() + (last * weights.cos()[:, None]).square().sum()
    return logp, last, list(torch.autograd.grad(loss, list(network.parameters())))


@settings(max_examples=25, deadline=None)
@given(pairs=pairs(), alibi=st.booleans())
def test_values_and_gradients(pairs: list[tuple[Placed, Placed]], alibi: bool) -> None:
    network = network_of(ALIBI if alibi else tiny.SHAPE)
    told_twice, shared = (batch_of(pairs, how) for how in (False, True))
    assert "shared" not in told_twice.doc
    assert shared.real_tokens == told_twice.real_tokens - int(shared.doc["shared"].sum())
    torch.testing.assert_close(values(network, shared), values(network, told_twice), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("first", "second", "prompts", "expected"),
    [
        ("abcX", "abcYZ", (3, 3), 2),  # the last of the prompt predicts the answer's first token
        ("abcX", "abcX", (3, 3), 2),  # equal answers are told apart all the same
        ("abcX", "abdX", (3, 3), 1),
        ("abcX", "abcX", (1, 3), 0),  # from the first answer on each tells its own
        ("aX", "aY", (1, 1), 0),
        ("X", "Y", (0, 0), 0),
        ("abc", "abcd", (3, 3), 2),
    ],
)
def test_what_is_shared(first: str, second: str, prompts: tuple[int, int], expected: int) -> None:
    texts = [[ord(letter) for letter in text] for text in (first, second)]
    one, two = sharing([placed(text, prompts[side], 0, 1 - side) for side, text in enumerate(texts)], 0.0)
    assert (one.shared, two.shared) == (0, expected)
    assert len(two.tokens) == len(two.weights) == len(two) == len(second) - expected


def test_too_short_a_prompt_is_told_twice() -> None:
    one, two = (placed([1, 1, 1, 1, 2 + answer, 2], 4, 0, 1 - answer) for answer in (0, 1))
    assert [sharing((one, two), least)[1].shared for least in (0.0, 0.5, 0.51)] == [3, 3, 0]


def test_streams_share_where_attention_can(tmp_path: Path) -> None:
    stream, plain = tiny.stream(tmp_path, "pair"), TrainSettings(precision="float32")
    shape = tiny.SHAPE

    def shares(of: object = stream, settings: TrainSettings = plain, shape: ModelSettings = shape) -> bool:
        return "shared" in in_its_form(of, settings, shape, CPU).step(0, 4, rows=2).micro[0].doc  # type: ignore[arg-type]

    assert shares()
    assert shares(in_its_form(stream, plain, shape, CPU).once())
    assert not shares(settings=TrainSettings(compile=True))
    assert not shares(shape=shape.model_copy(update={"sliding_window": 8}))
    assert not shares(tiny.stream(tmp_path))
    assert not shares(tiny.stream(tmp_path, "pair", pack="none"))


def test_a_pair_as_the_stream_gives_it(tmp_path: Path) -> None:
    """Steps are made of the same examples, with fewer tokens."""
    stream = tiny.stream(tmp_path, "pair")
    sharing_stream = stream.with_shared_prompts(0.0)
    assert sharing_stream.fingerprint == stream.fingerprint
    twice, once = (one.step(0, 16, rows=4) for one in (stream, sharing_stream))
    assert (once.examples, once.pairs, once.consumed, once.weight_sum) == (
        twice.examples,
        twice.pairs,
        twice.consumed,
        twice.weight_sum,
    )
    assert once.tokens <= twice.tokens
    done, spared = work_of(once), twice.tokens - once.tokens
    assert sorted(done.documents) == sorted(work_of(twice).documents) and sum(done.shared) == spared
    replaced = [
        replace(document, shared=0) for example in sharing_stream.examples(0, 16) for document in example.documents
    ]
    assert [len(one) for one in replaced] == [
        len(document) for example in stream.examples(0, 16) for document in example.documents
    ]
