"""The compiled step gives what the decoder gives, on weights as they are now, and is done without where it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.infer import native
from danlu.infer.cache import Cache
from danlu.infer.engine import Engine
from danlu.infer.settings import SamplingSettings
from danlu.infer.step_cpu import StepOnCPU
from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape, attach
from danlu.model.decoder import Decoder
from danlu.model.integers import Int4, quantise_ends, to_int4, to_int8
from danlu.model.projection import Projection

from .drawn import drawn, with_adapters

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "heads": 4},
    "qwen2": {"family": "qwen2", "heads": 4, "kv_heads": 2, "qkv_bias": True, "tie_embeddings": False},
    "qwen3": {"family": "qwen3", "heads": 4, "kv_heads": 1, "head_dim": 12, "qk_norm": True},
    "odd": {"family": "llama", "heads": 3, "hidden_size": 30, "mlp_size": 51, "activation": "gelu"},
}
compiled = pytest.mark.skipif(native.library() is None, reason="there is no C++ compiler here")


def decoder_of(shape: dict[str, Any], kind: str = "float32", **more: Any) -> Decoder:
    decoder = drawn(shape, **more)
    if kind in ("int8", "int4"):
        for part in decoder.modules():
            if isinstance(part, Projection):
                part.quantise((to_int8 if kind == "int8" else to_int4)(part.weight))
        quantise_ends(decoder)
    elif kind == "bf16":
        decoder.to(torch.bfloat16)
    return decoder


def filled(decoder: Decoder, window: int | None) -> Cache:
    torch.manual_seed(1)
    cache = Cache(5, 200, window)
    cache.reserve(5, 16)
    attend = cache.prefill(torch.arange(5), torch.arange(12).expand(5, -1), 0)
    decoder(torch.randint(90, (5, 12)), torch.arange(12).expand(5, -1), attend)
    return cache


@compiled
@pytest.mark.parametrize("places", [[0], [9], [7, 7, 7, 7, 7], [3, 11, 0, 5]])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["float32", "bf16", "int8"])
def test_it_gives_what_the_decoder_gives(name: str, kind: str, window: int | None, places: list[int]) -> None:
    decoder, tokens = decoder_of(SHAPES[name], kind), [*range(len(places))]
    assert StepOnCPU.fit(decoder)
    plain, ours = filled(decoder, window), filled(decoder, window)
    tokens_B1, positions_B1 = torch.tensor(tokens)[:, None], torch.tensor(places)[:, None]
    hidden_B1D = decoder(tokens_B1, positions_B1, plain.decode(positions_B1, places))
    expected = [decoder.head.logits(hidden_B1D[:, 0]).float(), *(held for layer in plain.layers for held in layer)]
    found = [StepOnCPU(decoder, ours).logits(tokens, places), *(held for layer in ours.layers for held in layer)]
    tolerance = {"float32": 2e-6, "bf16": 0.03, "int8": 0.03}[kind]
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert float((one - other).norm() / other.norm()) < tolerance


@compiled
@pytest.mark.parametrize("picks", [[0], [1], [None], [1, None, 0, 1, 0]])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["float32", "bf16", "int8"])
def test_each_row_takes_its_own_adapter(name: str, kind: str, picks: list[int | None]) -> None:
    few = AdapterShape(rank=5, targets=("q_proj", "down_proj"))
    decoder = with_adapters(decoder_of(SHAPES[name], kind), AdapterShape(rank=2), few)
    assert StepOnCPU.fit(decoder)
    tokens, places = [*range(len(picks))], [9, 3, 11, 0, 5][: len(picks)]
    pick_BN = torch.tensor([[float(pick == number) for number in range(2)] for pick in picks])
    plain, ours = filled(decoder, None), filled(decoder, None)
    tokens_B1, positions_B1 = torch.tensor(tokens)[:, None], torch.tensor(places)[:, None]
    given = pick_BN.to(decoder.norm.weight.dtype)
    hidden_B1D = decoder(tokens_B1, positions_B1, plain.decode(positions_B1, places), given)
    expected = decoder.head.logits(hidden_B1D[:, 0]).float()
    found = StepOnCPU(decoder, ours).logits(tokens, places, given)
    tolerance = 1e-5 if kind == "float32" else 0.05
    assert float((found - expected).norm() / expected.norm()) < tolerance
    if picks == [None]:
        assert torch.equal(found, StepOnCPU(decoder, filled(decoder, None)).logits(tokens, places))


@compiled
@pytest.mark.parametrize("places", [[11], [3, 11, 0, 5, 5]])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_four_bits(name: str, places: list[int]) -> None:
    size = {"hidden_size": 64, "mlp_size": 144}  # gate and up are 4 whole blocks and a half one; down has 8 bits
    small, whole = decoder_of(SHAPES[name], "int4", **size), decoder_of(SHAPES[name], **size)
    if not StepOnCPU.fit(small):
        pytest.skip("torch keeps 4 bits in another order on this processor")
    for module, part in small.named_modules():
        if isinstance(part, Projection):
            whole.get_parameter(f"{module}.weight").data = part.whole_weight(torch.float32).contiguous()
    whole.embed.weight.data = small.embed(torch.arange(90))
    if whole.head.linear is not None and small.head.quantised is not None:
        whole.head.linear.weight.data = small.head.quantised.dequantised(torch.float32)
    assert isinstance(small.get_submodule("blocks.0.gate_up.quantised"), Int4)
    cache = filled(whole, None)
    expected = StepOnCPU(whole, cache).logits([*range(len(places))], places)
    found = StepOnCPU(small, cache).logits([*range(len(places))], places)
    assert float((found - expected).norm() / expected.norm()) < 0.01  # the weights came back through bf16


@compiled
def test_threads_share_the_work_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.infer.step_cpu.WEIGHTS_A_THREAD", 1)
    decoder, places = decoder_of(SHAPES["qwen3"]), [3, 11, 0, 5, 6]
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(StepOnCPU(decoder, filled(decoder, None)).logits(places, places))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@compiled
@pytest.mark.parametrize("kind", ["float32", "bf16", "int8"])
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    decoder, places = decoder_of(SHAPES["qwen3"], kind), [3, 11, 0, 5, 6]
    together = StepOnCPU(decoder, filled(decoder, None)).logits([1, 2, 3, 4, 5], places)
    fewer = StepOnCPU(decoder, filled(decoder, None)).logits([1, 2], places[:2])
    alone = StepOnCPU(decoder, filled(decoder, None)).logits([1], places[:1])
    assert torch.equal(together[:2], fewer)
    assert torch.equal(together[:1], alone)


@compiled
def test_a_decoder_that_learns_between_answers_is_read_anew() -> None:
    decoder = decoder_of(SHAPES["qwen2"])
    engine, greedy = Engine(decoder), SamplingSettings(max_tokens=12)
    first = engine.generate([[1, 2, 3]], greedy)[0].ids
    torch.manual_seed(3)
    for number, parameter in enumerate(decoder.parameters()):  # in place, as optimizers do, and in a new place
        moved = parameter + torch.randn_like(parameter) * 0.3
        parameter.data = parameter.data.copy_(moved) if number % 2 else moved
    second = engine.generate([[1, 2, 3]], greedy)[0].ids
    assert second != first
    assert second == Engine(decoder).generate([[1, 2, 3]], greedy)[0].ids


@compiled
@pytest.mark.parametrize("place", ["embed.weight", "blocks.1.down.weight", "blocks.0.qkv.weight", "norm.weight"])
def test_nan_comes_through(place: str) -> None:
    decoder = decoder_of(SHAPES["llama"])
    cache = filled(decoder, None)
    decoder.get_parameter(place).data[...] = torch.nan
    assert StepOnCPU(decoder, cache).logits([1, 2], [3, 4]).isnan().all()
    engine = Engine(decoder)
    with pytest.raises(UserError, match="NaN"):
        engine.generate([[1, 2]])


@compiled
def test_the_cache_may_grow_and_rows_may_move() -> None:
    decoder = decoder_of(SHAPES["llama"], max_positions=400)
    asked = [([3, 4], 5), ([9] * 40, 90), ([7, 1, 1], 200), ([5], 30)]
    alone = [Engine(decoder).generate([prompt], SamplingSettings(max_tokens=count))[0].ids for prompt, count in asked]
    engine = Engine(decoder, max_batch=3)
    requests = [engine.submit(prompt, SamplingSettings(max_tokens=count)) for prompt, count in asked]
    engine.finish(requests)
    assert [request.tokens for request in requests] == alone


def test_other_decoders_take_the_usual_way() -> None:
    assert not StepOnCPU.fit(decoder_of({"family": "baichuan", "heads": 4, "positions": "alibi"}))
    assert not StepOnCPU.fit(decoder_of(SHAPES["llama"]).double())
    adapted = decoder_of(SHAPES["llama"])
    attach(adapted, AdapterShape(rank=2), 0)
    assert not StepOnCPU.fit(adapted), "one that is trained"
    scaled = with_adapters(decoder_of(SHAPES["llama"]), AdapterShape(rank=2), AdapterShape(rank=2, magnitudes=True))
    assert not StepOnCPU.fit(scaled)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_is_said_once_and_answers_are_the_same(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(SHAPES["qwen2"])
    expected = Engine(decoder).generate([[1, 2, 3]])[0].ids
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        with pytest.warns(UserWarning, match=compiler):
            engine = Engine(decoder)
        assert Engine(decoder).generate([[1, 2, 3]])[0].ids == engine.generate([[1, 2, 3]])[0].ids == expected
    finally:
        native.library.cache_clear()


@compiled
def test_it_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        assert native.library() is not None
        (kept,) = (tmp_path / "danlu").iterdir()
        whole = kept.read_bytes()
        kept.write_bytes(whole[:100])
        native.library.cache_clear()
        assert native.library() is not None
        assert len(kept.read_bytes()) == len(whole)  # made anew
        made = kept.stat().st_mtime_ns
        native.library.cache_clear()
        assert native.library() is not None
        assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "danlu").iterdir()] == [(kept, made)]
    finally:
        native.library.cache_clear()
