"""What a step takes: against what autograd and the compiler keep, what a run holds, and peaks measured on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.library import custom_op

from danlu.model import decoder as decoders
from danlu.model.adapt import slots
from danlu.model.adapters import LoRA as Adapter
from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.families.published import PUBLISHED
from danlu.model.head import KEPT_CHUNKS
from danlu.model.nf4 import quantise
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings, block_parameters, parameters
from danlu.train import parallel
from danlu.train.float8 import use_float8
from danlu.train.memory import COPIED, Memory, Needs, needs, room_of, sharded
from danlu.train.network import block_matrices, build
from danlu.train.optim import Optimizer
from danlu.train.preference_settings import DPOTrainSettings
from danlu.train.settings import SaveSettings, TrainSettings
from danlu.train.tune_settings import Full, Layers, LoRA, QLoRA
from danlu.train.tuning import tune

GPU = int(139.8 * 2**30)
WIDE = {"vocab_size": 64, "hidden_size": 64, "layers": 2, "heads": 4, "mlp_size": 160}
QWEN2 = ModelSettings(**WIDE, kv_heads=2)
QWEN3 = ModelSettings(**WIDE, kv_heads=2, family="qwen3")
ALIBI = ModelSettings(**WIDE, family="baichuan", positions="alibi")


# What the kernels of a GPU keep for their backward passes, without what they compute.
@custom_op("danlu_test::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_zeros(q.shape), q.new_zeros(q.shape[:-1], dtype=torch.float32)


@custom_op("danlu_test::attention_backward", mutates_args=())
def attention_backward(
    d: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_zeros(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)


@custom_op("danlu_test::swiglu", mutates_args=())
def swiglu(gate_up: Tensor) -> Tensor:
    return gate_up.new_zeros(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@custom_op("danlu_test::swiglu_backward", mutates_args=())
def swiglu_backward(gate_up: Tensor, d: Tensor) -> Tensor:
    return gate_up.new_zeros(gate_up.shape)


@custom_op("danlu_test::adapted", mutates_args=())
def adapted_product(x: Tensor, a: Tensor, b: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_zeros(*x.shape[:-1], len(b)), x.new_zeros(*x.shape[:-1], len(a))


@custom_op("danlu_test::adapted_backward", mutates_args=())
def adapted_backward(
    d: Tensor, x: Tensor, a: Tensor, b: Tensor, seed: Tensor, low: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_zeros(x.shape), a.new_zeros(a.shape), b.new_zeros(b.shape)


def adapted(x: Tensor, a: Tensor, b: Tensor, held: Any, p: float, scale: Tensor | None) -> Tensor:
    y: Tensor = adapted_product(x, a, b, torch.randint(9, (2,)))[0]
    return y


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _save_low(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _save_input(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


for op in (attention, attention_backward, swiglu, swiglu_backward, adapted_product, adapted_backward):
    op.register_fake(op._init_fn)
attention.register_autograd(
    lambda ctx, d, _: attention_backward(d.contiguous(), *ctx.saved_tensors), setup_context=_save
)
adapted_product.register_autograd(
    lambda ctx, d, _: (*adapted_backward(d.contiguous(), *ctx.saved_tensors), None), setup_context=_save_low
)
swiglu.register_autograd(lambda ctx, d: swiglu_backward(*ctx.saved_tensors, d.contiguous()), setup_context=_save_input)


def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(*(x.flatten(0, 1) for x in (q, k, v)))[0].view_as(q)


TOKENS = 112  # a size that nothing else has, in whole tiles of float8


def kept(shape: ModelSettings, how: Any, precision: str, compiled: bool = True) -> float:
    """Bytes a token that a block keeps beside its parameters."""
    torch.compiler.reset()
    made = Decoder.empty(shape)
    initialise(made, 0)
    tune(made, how, torch.bfloat16, 0)
    block = made.to(torch.bfloat16).train().blocks[0]
    if precision == "float8":
        use_float8(made.blocks)
    places = made.places(torch.arange(TOKENS)[None], torch.bfloat16)
    x = torch.randn(1, TOKENS, shape.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    held = [*block.parameters(), *block.buffers(), *places]
    own, found = {tensor.untyped_storage().data_ptr() for tensor in held}, dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        if TOKENS in tensor.shape:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    if compiled:
        block.compile(backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = block(x, places, attend, 0)
    assert y.requires_grad
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in found.items() if pointer not in own) / TOKENS


@pytest.mark.parametrize(
    ("shape", "how", "precision"),
    [
        (QWEN3, Full(), "bf16"),
        (QWEN3, Full(), "float8"),
        (ALIBI, LoRA(rank=4), "bf16"),
        (QWEN2, LoRA(rank=8, dropout=0.1), "bf16"),
        (QWEN2, LoRA(rank=8, dropout=0.1, dora=True), "bf16"),
        (QWEN2, LoRA(rank=8, targets=["q_proj", "down_proj"]), "float8"),
        (QWEN2, LoRA(rank=8, dropout=0.1), "float8"),
    ],
)
def test_a_block_keeps_what_the_compiler_keeps(
    shape: ModelSettings, how: Any, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate: Callable[[Tensor, str], Tensor] = lambda gate_up, activation: swiglu(gate_up)  # noqa: E731
    monkeypatch.setattr(decoders, "gated", gate)
    kernels = ModuleType("danlu.model.adapted_cuda")
    vars(kernels).update(adapted=adapted, adapted_after_gate=adapted)
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    monkeypatch.setattr(Adapter, "in_place", lambda adapter, x, slot: adapter.plain(slot))
    counted = needs(TrainSettings(precision=precision, tune=how), shape, GPU).kept / shape.layers
    assert counted == pytest.approx(kept(shape, how, precision), rel=0.01)


def test_dropout_on_a_cpu_keeps_masks() -> None:
    hows = [LoRA(rank=8), LoRA(rank=8, dropout=0.1)]
    found = [kept(QWEN2, how, "bf16", compiled=False) for how in hows]
    counted = [needs(TrainSettings(precision="bf16", tune=how), QWEN2, None).kept / QWEN2.layers for how in hows]
    assert counted[1] - counted[0] == found[1] - found[0] > 0


def test_dropout_on_a_gpu_keeps_nothing() -> None:
    def counted(precision: Any, **more: Any) -> int:
        return needs(TrainSettings(precision=precision, tune=LoRA(rank=8, **more)), QWEN2, GPU).kept

    assert counted("bf16", dropout=0.1) == counted("bf16")
    assert counted("float32", dropout=0.1) > counted("float32")  # computed by torch, as is DoRA


def test_what_adapters_take_for_a_while_in_float8() -> None:
    """A rounded weight, in the place of an opened one, and the rounded gradient of gate and up."""
    settings = [TrainSettings(precision=name, tune=QLoRA(rank=8), recompute=True) for name in ("bf16", "float8")]
    plain, found = (needs(one, QWEN2, GPU) for one in settings)
    largest = 2 * QWEN2.mlp_size * QWEN2.hidden_size
    assert plain.fixed.activations - found.fixed.activations == largest
    assert found.block - plain.block == 2 * QWEN2.mlp_size


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    ("how", "more"),
    [
        (Full(), {}),
        (Full(), {"precision": "float32"}),
        (Full(), {"optimizer": "muon"}),
        (Layers(last=1), {}),
        (LoRA(rank=4, dora=True, targets=["q_proj", "up_proj"]), {}),
        (LoRA(rank=4, start="pissa"), {"precision": "float32"}),
        (QLoRA(rank=8), {}),
    ],
)
def test_what_stands_in_memory(how: Any, more: dict[str, Any]) -> None:
    settings = TrainSettings(**{"precision": "bf16", "compile": False, **more}, tune=how)
    found = needs(settings, QWEN2, GPU).fixed
    made = Decoder.empty(QWEN2)
    initialise(made, 0)
    network, masters = build(made, settings, parallel.World(0, 1, torch.device("cpu")))
    optimizer = Optimizer(settings, masters.parameters, block_matrices(Decoder.empty(QWEN2, device="meta")))
    for master in masters.parameters.values():
        master.grad = torch.ones_like(master)
    optimizer.step(1e-3)
    copies = {
        name: value for name, value in network.decoder.named_parameters() if value is not masters.parameters.get(name)
    }
    weights = [value for name, value in copies.items() if ".adapters." not in name]
    small = [slot.quantised for _, _, slot in slots(network.decoder) if slot.quantised is not None]
    packed = [
        buffer for form in small for name, buffer in form.named_buffers() if name not in ("levels", "code", "mean")
    ]
    assert found.weights == pytest.approx(nbytes(weights) + nbytes(packed), rel=1e-3)
    assert found.adapters == nbytes(value for name, value in copies.items() if ".adapters." in name)
    assert found.masters == nbytes(masters.parameters.values())
    assert found.gradients == nbytes(masters.gradients())
    assert found.moments == nbytes(value for values in optimizer.moments().values() for value in values.values())


def test_moments_in_8_bits_and_what_is_paged() -> None:
    parts = {
        kind: needs(TrainSettings(optimizer_states=kind), QWEN2, GPU).fixed for kind in ("float32", "8bit", "paged")
    }
    assert parts["8bit"].moments == pytest.approx(parts["float32"].moments / 4, rel=0.02)
    assert parts["paged"].moments == 0 < parts["paged"].masters
    muon = needs(TrainSettings(optimizer="muon", optimizer_states="8bit"), QWEN2, GPU).fixed.moments
    blocks = block_parameters(QWEN2)
    assert muon == int((parameters(QWEN2) - blocks) * (2 + 8 / 256)) + 4 * blocks


def test_nf4_of_a_real_layer_is_counted() -> None:
    weight = torch.randn(256, 512)
    shape = ModelSettings(vocab_size=8, hidden_size=512, layers=1, heads=4, kv_heads=4, mlp_size=256)
    held = sum(buffer.nbytes for name, buffer in quantise(weight).named_buffers() if name not in ("levels", "code"))
    small, whole = (needs(TrainSettings(tune=how), shape, GPU).fixed.weights for how in (QLoRA(), LoRA()))
    layers = 512 * 512 * 4 + 3 * 512 * 256
    assert (whole - small) / layers == pytest.approx(4 - held / weight.numel(), rel=1e-3)


ONE_BILLION = ModelSettings(vocab_size=151_936, hidden_size=1_024, layers=48, heads=16, kv_heads=4, mlp_size=4_864)
SEVEN_BILLION = PUBLISHED["baichuan-7b"].shape


@pytest.mark.parametrize(
    ("shape", "rows", "length", "more", "measured"),
    [
        (ONE_BILLION, 24, 1_024, {}, 70.7),
        (ONE_BILLION, 27, 1_024, {}, 76.9),
        (SEVEN_BILLION, 1, 4_096, {"optimizer_states": "8bit"}, 97.7),
    ],
)
def test_peaks_measured_on_an_h200(
    shape: ModelSettings, rows: int, length: int, more: dict[str, Any], measured: float
) -> None:
    counted = needs(TrainSettings(precision="bf16", **more), shape, GPU)
    # The head took larger chunks then, and made a gradient of its own.
    size = shape.vocab_size * shape.hidden_size
    then = replace(counted, chunk=GPU // 28, whole=GPU // 28, head=(2 * size, 4 * size))
    found = then.of(rows, length)
    assert found.total / 2**30 == pytest.approx(measured, rel=0.01)


def test_a_mask_is_kept_once_and_counted() -> None:
    """On a CPU, where no kernel does without: of all layers together no more of it than is counted."""
    made, length = Decoder.empty(QWEN2), 512
    initialise(made, 1)
    tokens, kept = torch.zeros(1, length, dtype=torch.long), dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() >= length**2:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    attend = Documents(torch.tensor([0, length], dtype=torch.int32), length, torch.zeros_like(tokens))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made(tokens, torch.arange(length)[None], attend)
    counted = needs(TrainSettings(), QWEN2, None)
    assert 0 < sum(kept.values()) <= counted.pair * length**2
    assert counted.of(2, 100_000).total > 2 * 5 * 100_000**2 > counted.of(2, 1_000).total
    assert needs(TrainSettings(precision="bf16"), QWEN2, GPU).pair == 0


def test_preferences_keep_the_logits_of_their_answers() -> None:
    plain, pairs = (
        needs(kind.model_validate({"precision": "bf16"}), ONE_BILLION, GPU)
        for kind in (TrainSettings, DPOTrainSettings)
    )
    for tokens in (1_000, 40_000, 50_000):
        logits = 151_936 * 2 * tokens
        kept = pairs.of(1, tokens).loss - pairs.ends * tokens
        assert (kept == logits) == (logits <= KEPT_CHUNKS * plain.chunk)
        assert kept >= plain.of(1, tokens).loss - plain.ends * tokens


def test_recomputation_and_adapters_save_what_they_are_for() -> None:
    def total(**more: Any) -> Memory:
        return needs(TrainSettings(precision="bf16", **more), SEVEN_BILLION, GPU).of(1, 1_024)

    full, lora = total(), total(tune=LoRA(rank=16))
    small, least = total(tune=QLoRA()), total(tune=QLoRA(), recompute=True, optimizer_states="paged")
    assert full.total > lora.total > small.total > least.total
    assert least.total < room_of(8 * 2**30) < small.total


@settings(max_examples=40, deadline=None)
@given(room=st.integers(0, 80 * 2**30), most=st.integers(1, 300), recompute=st.booleans(), length=st.integers(1, 9_000))
def test_the_most_rows_fit_and_one_more_does_not(room: int, most: int, recompute: bool, length: int) -> None:
    found = FOUND[recompute]
    rows = found.rows_in(length, room, most)
    assert 0 <= rows <= most
    assert rows == 0 or found.of(rows, length).total <= room
    assert rows == most or found.of(rows + 1, length).total > room


@settings(max_examples=40, deadline=None)
@given(room=st.integers(0, 1 * 2**30), weights_only=st.booleans())
def test_copies_of_a_checkpoint_find_room_unless_a_quarter_of_the_rows_would_go(room: int, weights_only: bool) -> None:
    saving = TrainSettings(precision="bf16", save=SaveSettings(every=5, weights_only=weights_only))
    found, length, most = needs(saving, tiny.SHAPE, GPU), 512, 300
    copies = parameters(tiny.SHAPE) * (4 if weights_only else 12)
    alone, beside = FOUND[False].rows_in(length, room, most), found.rows_in(length, room, most)
    assert beside == alone or copies <= COPIED * (room - found.of(beside, length).total)
    assert 3 * alone <= 4 * beside


FOUND: dict[bool, Needs] = {
    recompute: needs(TrainSettings(precision="bf16", recompute=recompute), tiny.SHAPE, GPU)
    for recompute in (False, True)
}


@pytest.mark.parametrize(("states", "level"), [("float32", "full"), ("8bit", "optimizer"), ("paged", "optimizer")])
def test_a_level_of_sharding_that_is_left_open_suits_the_moments(states: str, level: str) -> None:
    """What `Optimizer` refuses to cut is not chosen to be cut."""
    small, large = ModelSettings(**WIDE), SEVEN_BILLION
    settings = TrainSettings(precision="bf16", optimizer_states=states)
    assert sharded(settings, large, GPU // 2, 8).sharding == level
    assert sharded(settings, large, GPU // 2, 1).sharding == sharded(settings, small, GPU, 8).sharding == "none"
    chosen = TrainSettings(precision="bf16", optimizer_states=states, sharding="none")
    assert sharded(chosen, large, GPU // 2, 8).sharding == "none"
