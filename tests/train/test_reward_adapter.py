"""A reward model under an adapter: its head is trained beside it, kept in the adapter's folder, and opened again."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from danlu.infer.cache import Causal
from danlu.infer.model import load
from danlu.infer.reward import reward_scores
from danlu.ledger.checkpoints import checkpoint_folder, list_checkpoints
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.model.adapt import AdapterShape, attach
from danlu.model.adapter_folder import Base, write_adapter
from danlu.model.folder import save_decoder
from danlu.model.open import open_decoder, shape_of
from danlu.model.reward_head import reward_decoder
from danlu.recipe.export import export_model
from danlu.tokens.template import Template
from danlu.train.loop import train
from danlu.train.objectives.next_token import NextToken
from danlu.train.objectives.reward import Reward
from danlu.train.preference_settings import RewardTrainSettings
from danlu.train.settings import SaveSettings, TrainSettings
from danlu.train.tune_settings import LoRA, QLoRA

COMMON: dict[str, Any] = {"batch": 8, "rows": 4, "learning_rate": 1e-2, "epochs": 6, "save": SaveSettings(every=3)}
KINDS = {
    "lora": RewardTrainSettings(**COMMON, tune=LoRA(rank=4)),
    "qlora": RewardTrainSettings(**COMMON, tune=QLoRA(rank=4), center=0.01),
    "bf16": RewardTrainSettings(**COMMON, tune=LoRA(rank=4), precision="bf16", recompute=True),
}
TALKS: list[Any] = [
    [{"role": "user", "content": "你好！🙂"}, {"role": "assistant", "content": answer}]
    for answer in ("您好，有什么可以帮您？", "Hello, ２ ｗｏｒｌｄｓ", "no")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "base"
    save_decoder(tiny.decoder(), folder, Template(tiny.tokenizer(), choice="chatml").tokenizer)
    return folder


def run(base: Path, out: Path, settings: RewardTrainSettings) -> Path:
    form = "nf4" if isinstance(settings.tune, QLoRA) else None
    start = reward_decoder(open_decoder(base, quantisation=form), seed=5)  # type: ignore[arg-type]
    template = Template(tiny.tokenizer(), choice="chatml")
    stream = tiny.stream(base.parent / "data", "pair", examples=8, epochs=6)
    return train(settings, Reward(settings), start, template.tokenizer, template, stream, {}, out, device="cpu")


@pytest.fixture(scope="module")
def runs(base: Path) -> dict[str, Path]:
    return {name: run(base, base.parent / name, settings) for name, settings in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_and_goes_on_bit_for_bit(runs: dict[str, Path], base: Path, name: str, tmp_path: Path) -> None:
    whole = runs[name].parents[1]
    losses = [row["loss"] for row in read_metrics(whole / "metrics.jsonl") if "loss" in row]
    assert min(losses) < losses[0] - 0.05
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(checkpoint_folder(tmp_path / "run", 6))
    last = run(base, tmp_path / "run", KINDS[name])
    for file in ("state/parameters.safetensors", "adapter_model.safetensors"):
        mine, other = load_file(last / file), load_file(runs[name] / file)
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other)
    (head,) = [key for key in load_file(last / "state/parameters.safetensors") if "score" in key]
    before = reward_decoder(tiny.decoder(), seed=5).reward
    assert before is not None
    assert not torch.equal(load_file(last / "state/parameters.safetensors")[head], before.score.weight)


def test_peft_opens_it_with_the_same_rewards(runs: dict[str, Path], base: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(plain, runs["lora"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(runs["lora"])
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]
    with torch.no_grad():
        wanted = [
            theirs(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0] for text in texts
        ]
    ours = reward_scores(runs["lora"], device="cpu")(TALKS)
    assert torch.tensor(ours) == pytest.approx(torch.stack(wanted), abs=1e-5)
    assert ours.std() > 1e-3
    assert load(runs["lora"], device="cpu").reward(TALKS[1]) == pytest.approx(float(wanted[1]), abs=1e-5)
    assert shape_of(runs["lora"]).head == "reward"


@pytest.mark.parametrize("name", KINDS)
def test_merged_it_is_a_reward_model(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    export_model(runs[name], tmp_path / "merged", "float32")
    wanted = reward_scores(runs[name], device="cpu")(TALKS)
    assert reward_scores(tmp_path / "merged", device="cpu")(TALKS) == pytest.approx(wanted, abs=1e-5)


def test_another_stage_goes_on_from_it(runs: dict[str, Path], base: Path, tmp_path: Path) -> None:
    opened = open_decoder(runs["lora"])
    stream = tiny.stream(base.parent / "data", "pair", examples=8, epochs=6)
    settings = RewardTrainSettings(**COMMON, steps=1, tune=LoRA(rank=4))
    train(settings, Reward(settings), opened, tiny.tokenizer(), None, stream, {}, tmp_path / "on", device="cpu")
    first = next(row["loss"] for row in read_metrics(tmp_path / "on" / "metrics.jsonl") if "loss" in row)
    earlier = [row["loss"] for row in read_metrics(runs["lora"].parents[1] / "metrics.jsonl") if "loss" in row]
    assert first < earlier[0]


def test_a_reward_model_starts_from_the_adapter_of_an_earlier_stage(base: Path, tmp_path: Path) -> None:
    sft = TrainSettings(**{**COMMON, "steps": 2}, tune=LoRA(rank=4))
    stream = tiny.stream(base.parent / "data")

    last = train(
        sft, NextToken(), open_decoder(base), tiny.tokenizer(), None, stream, {}, tmp_path / "sft", device="cpu"
    )
    policy, made = open_decoder(last), reward_decoder(open_decoder(last), seed=1)
    tokens, places = torch.arange(3, 9)[None], torch.arange(6)[None]

    assert torch.equal(policy(tokens, places, Causal()), made(tokens, places, Causal()))


def test_what_does_not_fit_is_said(runs: dict[str, Path], base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adapter of a reward model"):
        load(base, adapters=[runs["lora"]], device="cpu")
    with pytest.raises(UserError, match="no further adapters"):
        load(runs["lora"], adapters={"x": _policy_adapter(base, tmp_path)}, device="cpu")
    for name, change in {"headless": lambda held: held.pop(SCORE), "classes": _two_classes}.items():
        shutil.copytree(runs["lora"], tmp_path / name)
        held = load_file(runs["lora"] / "adapter_model.safetensors")
        change(held)
        save_file(held, tmp_path / name / "adapter_model.safetensors")
        with pytest.raises(UserError, match="do not agree" if name == "headless" else "its head is 2 × 16"):
            open_decoder(tmp_path / name)
    config = json.loads((runs["lora"] / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"] == ["score"]
    assert list_checkpoints(runs["lora"].parents[1])


SCORE = "base_model.model.score.weight"


def _two_classes(held: dict[str, torch.Tensor]) -> None:
    held[SCORE] = held[SCORE].repeat(2, 1)


def _policy_adapter(base: Path, folder: Path) -> Path:
    own, shape = open_decoder(base), AdapterShape(rank=2)
    attach(own, shape, 1)
    (folder / "policy").mkdir()
    write_adapter(own, folder / "policy", shape, Base.of(base))
    return folder / "policy"
