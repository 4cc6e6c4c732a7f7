"""The recipes for open models: their published settings, and all of them on the CPU by folders of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import danlu
from danlu.ledger.checkpoints import list_checkpoints, resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest, write_manifest
from danlu.ledger.metrics import read_metrics
from danlu.model.families.published import PUBLISHED, PublishedName
from danlu.model.open import open_decoder
from danlu.model.settings import parameters
from danlu.recipe.advice import advice
from danlu.recipe.export import export_model
from danlu.recipe.plan import print_plan
from danlu.recipe.settings import Recipe, load_recipe
from danlu.recipe.smoke import smoked
from danlu.recipe.stand_in import StandInSettings, write_stand_in
from danlu.text.settings import SourceSettings
from danlu.train.settings import SaveSettings, TrainSettings
from danlu.train.tune_settings import LoRA

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = [
    "firefly_baichuan_7b_qlora",
    "firefly_baichuan2_7b_qlora",
    "baichuan_7b_belle_qlora",
    "baichuan_13b_alpaca_zh_qlora",
    "llama2_7b_qlora",
    "qwen_lora_sft",
    "qwen_dpo_lora",
    "continue_pretrain",
]
FIREFLY = {
    "epochs": 1.0, "batch": 32, "learning_rate": 2e-4, "schedule": "constant", "warmup": 1000.0, "clip": 0.3,
    "weight_decay": 0.0, "optimizer_states": "paged", "recompute": True, "tune.method": "qlora", "tune.rank": 64,
    "tune.alpha": 16.0, "tune.dropout": 0.05, "tune.targets": ["all-linear"], "save.every": 100, "save.keep_last": 1,
    "data.length": 1024, "data.turns": "all",
}  # fmt: skip
PUBLISHED_SETTINGS: dict[str, dict[str, Any]] = {
    "firefly_baichuan_7b_qlora": FIREFLY | {"template": "baichuan"},
    "firefly_baichuan2_7b_qlora": FIREFLY | {"template": "baichuan2"},
    "baichuan_7b_belle_qlora": {
        "tune.method": "qlora", "tune.rank": 8, "tune.alpha": 16.0, "tune.dropout": 0.05,
        "tune.targets": ["all-linear"], "learning_rate": 3e-4, "schedule": "linear", "batch": 4, "data.length": 1024,
        "optimizer": "adamw", "optimizer_states": "float32", "evaluate_every": 2000, "save.every": 2000,
        "save.keep_last": 3, "save.load_best": True, "template": "human",
    },
    "baichuan_13b_alpaca_zh_qlora": {
        "tune.method": "qlora", "tune.rank": 8, "tune.targets": ["W_pack"], "learning_rate": 5e-5, "batch": 1,
        "schedule": "cosine", "epochs": 1.0, "data.max_source_length": 256, "data.max_target_length": 512,
        "template": "baichuan",
    },
}  # fmt: skip


def recipe(name: str, data: Path, out: Path, *more: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", [f"data={data}", f"out={out}", *more])


@pytest.mark.parametrize("name", PUBLISHED_SETTINGS)
def test_the_published_settings(name: str, tmp_path: Path) -> None:
    loaded = recipe(name, tmp_path, tmp_path)
    assert loaded.sft is not None and loaded.tokenizer is not None and loaded.seed == 42
    held: dict[str, Any] = {"template": loaded.tokenizer.template, "data": loaded.sft.data.model_dump()}
    held |= loaded.sft.train.model_dump()
    for key, value in PUBLISHED_SETTINGS[name].items():
        found: Any = held
        for part in key.split("."):
            found = found[part]
        assert found == value, key


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("baichuan-7b", 7_000_559_616),
        ("baichuan2-7b", 7_505_973_248),
        ("baichuan-13b", 13_264_901_120),
        ("llama2-7b", 6_738_415_616),
        ("qwen2.5-0.5b-instruct", 494_032_768),
        ("qwen2.5-7b-instruct", 7_615_616_512),
    ],
)
def test_published_shapes_have_the_published_size(name: PublishedName, count: int) -> None:
    assert parameters(PUBLISHED[name].shape) == count


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_smokes(name: str, shared_data: Path, tmp_path: Path) -> None:
    run = recipe(name, shared_data, tmp_path / "run")
    small = smoked(run)
    danlu.run(small)
    (stage,) = run.training()
    out, stand_in = tmp_path / "run-smoke" / stage, tmp_path / "run-smoke" / "stand_in"
    rows = read_metrics(out / "metrics.jsonl")
    assert len([row for row in rows if "loss" in row]) == 4
    config = json.loads((stand_in / "config.json").read_text("utf-8"))
    assert run.stand_in is not None
    published = PUBLISHED[run.stand_in.published].config
    assert config.keys() >= published.keys() and config["model_type"] == published["model_type"]
    packed = any("W_pack" in key for key in load_file(stand_in / "model.safetensors"))
    assert packed == (published["model_type"] == "baichuan")
    assert (tmp_path / "run-smoke" / "report" / "index.html").is_file()

    tune = run.training()[stage].train.tune
    if not isinstance(tune, LoRA):
        return
    folder = resolve_checkpoint(out)
    written = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert (written["r"], written["lora_alpha"]) == (tune.rank, tune.alpha or 2 * tune.rank)
    adapter = load_file(folder / "adapter_model.safetensors")
    assert all(bool(weight.any()) for key, weight in adapter.items() if "lora_B" in key), "every B has moved from 0"
    if name == "baichuan_7b_belle_qlora":
        losses = {row["step"]: row["held_out_loss"] for row in rows if row.get("source") == "all"}
        best = read_manifest(out)["best"]  # type: ignore[index]
        assert int(best.removeprefix("step-")) == min(losses, key=lambda step: losses[step])


@pytest.mark.prove
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_lose_what_one_loses(name: str, shared_data: Path, tmp_path: Path) -> None:
    (stage,) = recipe(name, shared_data, tmp_path).training()
    losses = []
    for processes in (1, 2):
        still = [f"{stage}.train.tune.dropout=0"] if "lora" in name else []  # each process draws masks of its own
        run = smoked(recipe(name, shared_data, tmp_path / f"on{processes}", *still, "evaluate=null"))
        danlu.run(run.model_copy(update={"processes": processes}))
        rows = read_metrics(tmp_path / f"on{processes}-smoke" / stage / "metrics.jsonl")
        losses.append([row.get("loss", row.get("held_out_loss")) for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=2e-6)


@pytest.mark.parametrize("name", ["llama2-7b", "qwen2.5-0.5b-instruct"])
def test_a_stand_in_is_a_folder_that_transformers_opens(name: PublishedName, shared_data: Path, tmp_path: Path) -> None:
    source = SourceSettings(path=str(shared_data / "sft" / "alpaca_zh.jsonl.zst"), limit=50)
    write_stand_in(StandInSettings(published=name, small=True), [source], "conversation", 1, tmp_path / "model")
    tokens = torch.tensor([[5, 300, 7, 401, 2]])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        expected = theirs(tokens).logits[0]
    model = danlu.load(tmp_path / "model")
    assert model.decoder.settings == open_decoder(tmp_path / "model").settings
    scored = model.engine.score([([5], [300, 7, 401, 2])])[0].logps
    wanted = expected.log_softmax(-1)[torch.arange(4), tokens[0, 1:]]
    assert torch.tensor(scored) == pytest.approx(wanted, abs=1e-5)


def test_the_run_itself_can_take_the_stand_in(tmp_path: Path) -> None:
    named = ['model.from="stand_in:"', 'tokenizer.path="stand_in:"']
    run = recipe("llama2_7b_qlora", tmp_path, tmp_path / "run", *named)
    assert run.model is not None and run.model.from_folder == tmp_path / "run" / "stand_in"
    with pytest.raises(UserError, match="is not there") as told:
        danlu.run(recipe("llama2_7b_qlora", tmp_path, tmp_path / "run", f"model.from={tmp_path / 'absent'}"))
    assert "--smoke" in str(told.value)
    with pytest.raises(UserError, match="stand_in"):
        recipe("llama2_7b_qlora", tmp_path, tmp_path / "run", *named, "stand_in=null")


def test_a_plan_needs_no_folder(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = f"model.from={tmp_path / 'absent'}"
    print_plan(recipe("qwen_lora_sft", shared_data, tmp_path / "run", here, f"tokenizer.path={tmp_path}"))
    assert "7.62G" in capsys.readouterr().out


def test_the_best_checkpoint_is_the_model_of_an_ended_run(tmp_path: Path) -> None:
    for step, loss in ((2, 1.5), (4, 1.25), (6, 1.75)):
        folder = tmp_path / "checkpoints" / f"step-{step:09d}"
        folder.mkdir(parents=True)
        write_manifest(folder, {"held_out_loss": loss})
    last = list_checkpoints(tmp_path)[-1]
    assert resolve_checkpoint(tmp_path) == last, "still running"
    write_manifest(tmp_path, {"checkpoint": last.name, "best": "step-000000004"})
    assert resolve_checkpoint(tmp_path).name == "step-000000004"
    write_manifest(tmp_path, {"checkpoint": "step-000000004", "best": "step-000000004"})
    assert resolve_checkpoint(tmp_path) == last, "it went on after it had ended"
    with pytest.raises(ValueError, match="keep_best"):
        TrainSettings(save=SaveSettings(load_best=True))
    with pytest.raises(UserError, match=r"save.keep_best compares held-out losses, and data.held_out is 0"):
        load_recipe(RECIPES / "lora_small.yaml", ["sft.data.held_out=0"])


def advised(name: str, data: Path, examples: int, *more: str) -> set[str]:
    return {one.setting for one in advice(recipe(name, data, data, *more), {"sft": examples})}


def test_advice_on_settings_that_are_seldom_meant(tmp_path: Path) -> None:
    firefly = advised("firefly_baichuan_7b_qlora", tmp_path, 100_000)
    assert firefly == {f"sft.train.{name}" for name in ("tune.alpha", "tune.dropout", "warmup", "save.keep_last")}
    assert "sft.data.loss_on" in advised(
        "baichuan_7b_belle_qlora", tmp_path, 13_000, "sft.data.loss_on=[assistant, user]"
    )
    small = advised("baichuan_13b_alpaca_zh_qlora", tmp_path, 20_000, "sft.train.precision=fp16")
    assert small >= {f"sft.train.{name}" for name in ("tune.targets", "tune.alpha", "batch", "precision")}
    assert advised("qwen_lora_sft", tmp_path, 1_800) == {"sft.train.tune.dropout"}, "three times without dropout"
    assert advised("qwen_lora_sft", tmp_path, 50_000) == set()
    assert "sft.train.learning_rate" in advised("qwen_lora_sft", tmp_path, 50_000, "sft.train.learning_rate=0.02")
    rank = "sft.train.tune.rank"
    for settled in ("rank=64", "rank=1"):
        assert advised("qwen_lora_sft", tmp_path, 50_000, f"sft.train.tune.{settled}") == {rank}
    assert rank in advised("baichuan_7b_belle_qlora", tmp_path, 50_000), "8 where QLoRA has 64"
    assert rank not in advised("baichuan_7b_belle_qlora", tmp_path, 50_000, f"{rank}=64")
    loaded = recipe("firefly_baichuan_7b_qlora", tmp_path, tmp_path)
    (warmup,) = [one for one in advice(loaded, {"sft": 571}) if one.setting == "sft.train.warmup"]
    assert "1000 steps of warmup in a run of 18: the rate never reaches its height" in warmup.said("en")
    assert "全程 18 步中预热 1000 步：学习率到不了最高值" in warmup.said("zh")
    assert "sft.train.batch" not in advised("qwen_lora_sft", tmp_path, 1_800, "sft.train.batch=1800")
    loaded = recipe("qwen_lora_sft", tmp_path, tmp_path, "sft.train.batch=100000000")
    (batch,) = [one for one in advice(loaded, {"sft": 1_800}) if one.setting == "sft.train.batch"]
    assert "100,000,000 examples a step, and an epoch has 1,800" in batch.said("en")
    assert "每步 100,000,000 条样本，而一轮只有 1,800 条" in batch.said("zh")


@pytest.mark.parametrize(
    ("name", "more", "modules"),
    [
        ("firefly_baichuan_7b_qlora", "sft.train.steps=4", ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]),
        ("baichuan_13b_alpaca_zh_qlora", "sft.train.steps=4", ["W_pack"]),
        ("baichuan_13b_alpaca_zh_qlora", "sft.train.tune.targets=[all-linear]", ["W_pack", "o_proj", "gate_proj"]),
    ],
)
def test_peft_opens_the_adapter_over_the_exported_base(
    name: str, more: str, modules: list[str], shared_data: Path, tmp_path: Path
) -> None:
    rate = "sft.train.learning_rate=0.1"
    danlu.run(smoked(recipe(name, shared_data, tmp_path / "run", more, rate, "sft.train.warmup=0", "language=en")))
    folder, base = resolve_checkpoint(tmp_path / "run-smoke" / "sft"), tmp_path / "base"
    written = json.loads((folder / "adapter_config.json").read_text("utf-8"))["target_modules"]
    assert set(modules) <= set(written)
    export_model(tmp_path / "run-smoke" / "stand_in", base, "float32", template="baichuan")
    tokens = torch.tensor([[5, 300, 7, 401, 2, 9]])
    plain = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True).eval()
    with torch.no_grad():
        before = plain(tokens).logits[0].log_softmax(-1)
        after = PeftModel.from_pretrained(plain, str(folder)).eval()(tokens).logits[0].log_softmax(-1)
    ours = danlu.load(folder, quantize="full").engine.score([(tokens[0, :1].tolist(), tokens[0, 1:].tolist())])[0].logps
    at = torch.arange(5), tokens[0, 1:]
    assert torch.tensor(ours) == pytest.approx(after[at], abs=2e-5)
    assert (before - after).abs().max() > 1e-3, "the adapter says something"
