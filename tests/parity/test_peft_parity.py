"""Our adapters against PEFT's on transformers' models: losses, gradients, steps, and folders both ways."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape, adapters_off, attach, detach, load_several, merge, slots, trained
from danlu.model.adapter_folder import Base, attach_stored, loras, read_adapter, write_adapter
from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
    from transformers import AutoModelForCausalLM

LENGTH, VOCABULARY, STEPS = 12, 61, 4
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 48}
FORMS = {
    "qwen2": ModelSettings(family="qwen2", init_std=0.15, **COMMON),
    "llama": ModelSettings(family="llama", init_std=0.15, tie_embeddings=False, **COMMON),
}
SHAPES = {
    "all-linear": AdapterShape(rank=4, alpha=8),
    "attention": AdapterShape(rank=3, alpha=6, targets=("q_proj", "v_proj")),
    "rslora": AdapterShape(rank=4, alpha=8, rank_stabilised=True),
    "dora": AdapterShape(rank=4, alpha=8, magnitudes=True, targets=("q_proj", "v_proj", "up_proj", "down_proj")),
    "pissa": AdapterShape(rank=4, alpha=8, start="pissa"),
}
TOKENS = torch.randint(0, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    for seed, (name, shape) in enumerate(FORMS.items()):
        decoder = Decoder.empty(shape)
        initialise(decoder, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, _, slot in slots(decoder):
                if slot.bias is not None:
                    slot.bias.uniform_(-0.2, 0.2, generator=generator)
        save_decoder(decoder, folder / name)
    return {name: folder / name for name in FORMS}


def logits(decoder: Decoder, pick: Tensor | None = None) -> Tensor:
    rows, length = TOKENS.shape
    cu, document = torch.arange(rows + 1) * length, torch.arange(rows)[:, None].expand(rows, length)
    attend = Documents(cu, length, document, None, torch.float32)
    positions = torch.arange(length).expand(rows, length)
    return decoder.head.logits(decoder(TOKENS, positions, attend, pick))


def loss(values: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(values[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def stirred(decoder: Decoder, seed: int = 7) -> None:
    """As if trained for a while: B is not zero, and magnitudes are not the weights' own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, _, adapter in trained(decoder):
            for pair in adapter.of():
                pair.b += torch.empty_like(pair.b).normal_(0, 0.05, generator=generator)
                if pair.magnitude is not None:
                    pair.magnitude *= torch.empty_like(pair.magnitude).uniform_(0.8, 1.2, generator=generator)


def ours(base: Path, shape: AdapterShape) -> Decoder:
    decoder = load_decoder(base)
    attach(decoder, shape, seed=3)
    stirred(decoder)
    return decoder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [name for name in SHAPES if name != "pissa"])
def test_steps_equal_separate_adapters_of_peft(bases: dict[str, Path], tmp_path: Path, form: str, kind: str) -> None:
    mine = ours(bases[form], SHAPES[kind])
    write_adapter(mine, tmp_path, SHAPES[kind], Base.of(bases[form]))
    model = AutoModelForCausalLM.from_pretrained(bases[form], dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True)
    theirs.train()
    own = [parameter for parameter in mine.parameters() if parameter.requires_grad]
    other = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    assert sum(map(torch.Tensor.numel, own)) == sum(map(torch.Tensor.numel, other))
    optimizers = [torch.optim.AdamW(values, lr=1e-2, weight_decay=0.1) for values in (own, other)]
    found: list[list[float]] = [[], []]
    for _ in range(STEPS):
        for number, values in enumerate((loss(logits(mine)), loss(theirs(TOKENS).logits))):
            optimizers[number].zero_grad()
            values.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in (own, other)[number] if p.grad is not None])
            found[number] += [values.item(), norm.item()]
            optimizers[number].step()
    assert found[0] == pytest.approx(found[1], rel=2e-5)
    assert found[0][0] != pytest.approx(found[0][-2], rel=1e-2), "nothing was learned"
    assert torch.allclose(logits(mine), theirs(TOKENS).logits, atol=2e-4)


@pytest.mark.parametrize("kind", SHAPES)
def test_peft_opens_ours_and_we_open_it_again(bases: dict[str, Path], tmp_path: Path, kind: str) -> None:
    mine, base = ours(bases["qwen2"], SHAPES[kind]), bases["qwen2"]
    write_adapter(mine, tmp_path, SHAPES[kind], Base.of(base))
    wanted = logits(mine)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path)
    assert torch.allclose(theirs(TOKENS).logits, wanted, atol=1e-5)
    again = load_decoder(base)
    attach_stored(again, read_adapter(tmp_path), Base.of(base))
    assert torch.allclose(logits(again), wanted, atol=1e-5)
    with adapters_off(again):
        assert torch.equal(logits(again), logits(load_decoder(base)))
    merge(again, torch.float32)
    assert torch.allclose(logits(again), wanted, atol=1e-5)
    assert not torch.allclose(logits(load_decoder(base)), wanted, atol=1e-2)


@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["k_proj", "up_proj"], "rank_pattern": {"k_proj": 5}, "alpha_pattern": {"up_proj": 20}},
        {"target_modules": ["self_attn.q_proj", "down_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.[01]\..*\.(q|down)_proj", "exclude_modules": ["layers.0.mlp.down_proj"]},
        {"target_modules": ["model.layers.0.self_attn.v_proj", "o_proj"], "layers_to_transform": 1},
    ],
)
def test_we_open_pefts(bases: dict[str, Path], tmp_path: Path, more: dict[str, object]) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=9, init_lora_weights=False, **more)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.float32)
    theirs = peft.get_peft_model(model, config)
    theirs.save_pretrained(tmp_path)
    mine = load_decoder(bases["llama"])
    attach_stored(mine, read_adapter(tmp_path))
    assert torch.allclose(logits(mine), theirs(TOKENS).logits, atol=2e-5)


def test_pissa_begins_where_pefts_does(bases: dict[str, Path]) -> None:
    mine = load_decoder(bases["llama"])
    before = logits(mine)
    attach(mine, SHAPES["pissa"], seed=3)
    assert torch.allclose(logits(mine), before, atol=1e-5), "the start changes nothing"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa")
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.float32), config)
    loss(logits(mine)).backward()
    loss(theirs(TOKENS).logits).backward()
    for (layer, _, adapter), name in [(item, name) for item in trained(mine) for name in item[2].pairs]:
        pair = adapter.pairs[name]
        room = "mlp" if name in ("gate", "up", "down") else "self_attn"
        other = theirs.get_submodule(f"base_model.model.model.layers.{layer}.{room}.{name}_proj")
        ours_a, theirs_a = pair.a.grad.abs(), other.lora_A["default"].weight.grad.abs()  # signs of vectors are free
        assert torch.allclose(ours_a, theirs_a, atol=2e-5)


@pytest.mark.parametrize("start", ["pissa", "olora", "gaussian", "orthogonal"])
def test_an_adapter_is_opened_only_where_its_start_left_the_base_alone(
    bases: dict[str, Path], tmp_path: Path, start: Any
) -> None:
    """Under PiSSA and OLoRA PEFT trains over another base; saved so that it was converted, the adapter is over ours."""
    model = AutoModelForCausalLM.from_pretrained(bases["llama"], dtype=torch.float32)
    targets = ["q_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=start)
    theirs = peft.get_peft_model(model, config)
    theirs.peft_config["default"].init_lora_weights = True  # or what is saved here would be computed anew on opening
    theirs.save_pretrained(tmp_path / "before")
    theirs.peft_config["default"].init_lora_weights = start
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01
    theirs.save_pretrained(tmp_path / "after")
    found = tmp_path / "after"
    if start in ("pissa", "olora"):
        with pytest.raises(UserError, match=f"init_lora_weights: {start}") as refused:
            read_adapter(found)
        assert "path_initial_model_for_weight_conversion" in str(refused.value)
        found = tmp_path / "converted"
        theirs.save_pretrained(found, path_initial_model_for_weight_conversion=str(tmp_path / "before"))
    mine = load_decoder(bases["llama"])
    attach_stored(mine, read_adapter(found))
    assert torch.allclose(logits(mine), theirs(TOKENS).logits, atol=2e-5)


def test_one_name_for_q_k_and_v_shares_a(bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["llama"]
    mine = ours(base, AdapterShape(rank=4, alpha=8, targets=("W_pack", "o_proj")))
    assert [list(adapter.pairs) for _, _, adapter in trained(mine)][:2] == [["q_k_v"], ["o"]]
    write_adapter(mine, tmp_path, AdapterShape(rank=4, alpha=8), Base.of(base))
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path)
    assert torch.allclose(theirs(TOKENS).logits, logits(mine), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_several_at_once_are_each_alone(bases: dict[str, Path], form: str) -> None:
    base, found, alone = bases[form], [], []
    for number, kind in enumerate(("all-linear", "attention", "dora")):
        decoder = load_decoder(base)
        attach(decoder, SHAPES[kind], seed=number)
        stirred(decoder, number)
        alone.append(logits(decoder))
        found.append({(layer, name): slot.adapters for layer, name, slot in slots(decoder) if slot.adapters})
    together = load_decoder(base)
    load_several(together, found, torch.float32)
    for order in ((0, 1, 2), (2, 2, 0)):
        mixed = logits(together, torch.eye(3)[list(order)])
        for row, number in enumerate(order):
            assert torch.allclose(mixed[row], alone[number][row], atol=2e-5)
    none = logits(together, torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]))
    plain = logits(load_decoder(base))
    assert torch.allclose(none[0], plain[0], atol=2e-5) and torch.allclose(none[1], alone[0][1], atol=2e-5)
    assert torch.equal(logits(together), plain)


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_whole_and_recomputed(bases: dict[str, Path], recompute: bool) -> None:
    found = []
    for compiled in (False, True):
        decoder = ours(bases["qwen2"], SHAPES["dora"])
        decoder.recompute = recompute and compiled
        if compiled:
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            decoder.compile_blocks(backend="aot_eager")  # fullgraph
        value = loss(logits(decoder))
        value.backward()
        # The first layer's input is frozen and needs no gradient, but is given one, so that one serves all layers.
        assert not compiled or torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        found.append([value.item(), *(p.grad.norm().item() for p in decoder.parameters() if p.grad is not None)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_recomputed_dropout_draws_the_same(bases: dict[str, Path]) -> None:
    found = []
    for recompute in (False, True):
        decoder = ours(bases["qwen2"], AdapterShape(rank=4, alpha=8, dropout=0.3)).train()
        decoder.recompute = recompute
        torch.manual_seed(0)
        value = loss(logits(decoder))
        value.backward()
        found.append([value.item(), *(p.grad.norm().item() for p in decoder.parameters() if p.grad is not None)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    detach(decoder)
    assert found[0][0] != pytest.approx(loss(logits(decoder)).item(), rel=1e-4)


def test_loras_of_another_base_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    mine = ours(bases["qwen2"], SHAPES["attention"])
    write_adapter(mine, tmp_path, SHAPES["attention"], Base.of(bases["qwen2"]))
    stored = read_adapter(tmp_path)
    with pytest.raises(Exception, match=r"trained on other weights: .*qwen2"):
        loras(load_decoder(bases["llama"]), stored, Base.of(bases["llama"]))
    narrow = Decoder.empty(FORMS["qwen2"].model_copy(update={"hidden_size": 64, "heads": 8}))
    with pytest.raises(Exception, match=r"another base: .*q_proj is 32 × 32 and the base's 64 × 64"):
        loras(narrow, stored)
    with pytest.raises(Exception, match="no such module"):
        loras(Decoder.empty(FORMS["qwen2"].model_copy(update={"layers": 1})), stored)


@pytest.mark.parametrize(("path", "grouped"), [("self_attn.W_pack", False), ("attention.wqkv", True)])
def test_adapters_of_packed_forms(bases: dict[str, Path], tmp_path: Path, path: str, grouped: bool) -> None:
    """As made by PEFT on Baichuan's own class (all of q, then k, then v) and InternLM2's (by key-value head)."""
    decoder = load_decoder(bases["llama"])
    slot = decoder.blocks[1].qkv
    a, b = torch.randn(4, 32), torch.randn(slot.out_features, 4)
    name = f"base_model.model.model.layers.1.{path}"
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": [path.partition(".")[2]]}
    config |= {"layers_to_transform": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    before = slot.weight.detach().clone()
    attach_stored(decoder, read_adapter(tmp_path))
    merge(decoder, torch.float32)
    added = decoder.blocks[1].qkv.weight - before
    wanted = 2 * b @ a
    rows = [added] if grouped else [slot.view(part)(added).reshape(-1, 32) for part in ("q", "k", "v")]
    assert torch.allclose(torch.cat(rows), wanted, atol=1e-5)
