"""A reward model as transformers opens it: the same scores for the same conversations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from danlu.infer.model import load
from danlu.infer.reward import reward_scores
from danlu.ledger.errors import UserError
from danlu.model.folder import load_decoder, save_decoder
from danlu.model.parts import unfused_state
from danlu.model.reward_head import reward_decoder
from danlu.tokens.template import Template

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny

TALKS: list[Any] = [
    [{"role": "user", "content": "你好！"}, {"role": "assistant", "content": "您好，有什么可以帮您？"}],
    [{"role": "user", "content": "Hi 🙂"}, {"role": "assistant", "content": "Hello, ２ ｗｏｒｌｄｓ"}],
    [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "and 𠀀?"},
        {"role": "assistant", "content": "一个字"},
    ],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "model"
    template = Template(tiny.tokenizer(), choice="chatml")
    save_decoder(reward_decoder(tiny.decoder(), seed=7), path, template.tokenizer)
    return path


def test_transformers_gives_the_same_scores(folder: Path) -> None:
    ours = reward_scores(folder, device="cpu")(TALKS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    assert model.config.num_labels == 1
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]
    with torch.no_grad():
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        theirs = model(**batch).logits[:, 0].numpy()
    assert np.abs(ours - theirs).max() < 1e-6
    assert np.ptp(ours) > 1e-3
    assert load(folder, device="cpu").reward(TALKS[1]) == pytest.approx(float(theirs[1]), abs=1e-6)


def test_the_decoder_stays_what_it_was(folder: Path) -> None:
    before, after = unfused_state(tiny.decoder()), unfused_state(load_decoder(folder))
    assert after.keys() - before.keys() == {"score.weight"}
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_long_conversations_are_cut_to_the_window(folder: Path) -> None:
    scores = reward_scores(folder, device="cpu")
    question = TALKS[0][:1]
    long = [*question, {"role": "assistant", "content": "长" * 100}]
    assert np.isfinite(scores([long])).all()
    older = [{"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y"}]
    assert scores([older + TALKS[0]]) == pytest.approx(scores([TALKS[0]]), abs=1e-6)
    assert np.isnan(scores([[{"role": "system", "content": "s" * 200}, *TALKS[0]]])).all()


def test_what_it_cannot_do_is_said(folder: Path, tmp_path: Path) -> None:
    model = load(folder, device="cpu")
    with pytest.raises(UserError, match="reward model"):
        model.chat(TALKS[0][:1])
    with pytest.raises(UserError, match="reward model"):
        model.score("text")
    with pytest.raises(UserError, match="no answer at the end"):
        model.reward(TALKS[0][:1])
    save_decoder(tiny.decoder(), tmp_path / "policy", Template(tiny.tokenizer(), choice="chatml").tokenizer)
    with pytest.raises(UserError, match="rewards none"):
        reward_scores(tmp_path / "policy", device="cpu")


def test_a_classifier_of_several_classes_is_no_reward_model(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").read_text("utf-8").replace('"0": "reward"', '"0": "good", "1": "bad"')
    (tmp_path / "config.json").write_text(config, "utf-8")
    with pytest.raises(UserError, match="a classifier with 2 outputs"):
        load_decoder(tmp_path)
