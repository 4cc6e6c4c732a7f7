"""The step reward: what a reward model says of conversations and pairs drops them, and stays in meta."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.config import check
from danlu.infer.cleaning import rewards
from danlu.infer.reward import reward_scores
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.reward_head import reward_decoder
from danlu.model.settings import ModelSettings
from danlu.recipe.stages import clean
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings
from danlu.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model(reciting_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer.load(reciting_model)
    shape = ModelSettings(
        family="qwen3", vocab_size=tokenizer.vocab_size, hidden_size=16, layers=2, heads=2, mlp_size=32,
        max_positions=256, init_std=0.5,
    )  # fmt: skip
    decoder = Decoder.empty(shape)
    initialise(decoder, 3)
    folder = tmp_path_factory.mktemp("reward") / "model"
    save_decoder(reward_decoder(decoder, seed=5), folder, tokenizer)
    return folder


def talk(question: str, answer: str) -> list[Any]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def cleaned(folder: Path, rows: list[dict[str, Any]], **step: Any) -> Any:
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    settings = {"sources": [{"path": str(raw)}], "steps": [{"op": "reward", **step}], "keep_scores": ["reward"]}
    clean(check(CleanSettings, {**settings, "workers": 1}), folder / "out")
    names = ("conversations", "preferences", "dropped")
    return {
        name: [row.fields for row in read_rows(folder / "out" / name)]
        for name in names
        if (folder / "out" / name).is_dir()
    }


def test_conversations_are_dropped_by_their_answers_reward(tmp_path: Path, model: Path) -> None:
    talks = [
        talk(f"问题{n}？", answer) for n, answer in enumerate(["好", "Hello", "你好，world！", "∞", "!?", "no…"] * 3)
    ]
    expected = reward_scores(model)(talks)
    least = float(np.median(expected))
    found = cleaned(tmp_path, [{"messages": one} for one in talks], model=str(model), reward={"min": least})
    kept = [row["meta"]["reward.reward"] for row in found["conversations"]]
    assert kept == pytest.approx([one for one in expected if one >= least], rel=1e-5)
    assert {row["reason"] for row in found["dropped"]} == {"reward too low"}
    assert len(found["dropped"]) == sum(expected < least) > 3


def test_pairs_are_dropped_that_the_model_orders_the_other_way(tmp_path: Path, model: Path) -> None:
    pairs = [(f"问{n}", f"答{n}", ["好", "你好！", "Hello world", "∞∞"][n % 4] + str(n)) for n in range(12)]
    rows = [{"prompt": question, "chosen": chosen, "rejected": rejected} for question, chosen, rejected in pairs]
    score = reward_scores(model)
    margins = score([talk(q, c) for q, c, _ in pairs]) - score([talk(q, r) for q, _, r in pairs])
    found = cleaned(tmp_path, rows, model=str(model), margin={"min": 0})
    assert 0 < len(found["preferences"]) < 12
    assert [row["meta"]["reward.margin"] for row in found["preferences"]] == pytest.approx(
        [margin for margin in margins.tolist() if margin >= 0], rel=1e-4
    )
    assert {row["reason"] for row in found["dropped"]} == {"margin too low"}


def test_a_conversation_that_cannot_be_scored_has_no_reward_and_no_neighbour_loses_its_own(model: Path) -> None:
    talks = [talk("a", "b"), [{"role": "user", "content": "?"}], talk("c", "好"), []]
    found = rewards(str(model))(talks)
    assert np.isnan(found[[1, 3]]).all()
    assert found[[0, 2]] == pytest.approx(reward_scores(model)([talks[0], talks[2]]), abs=1e-6)


def test_a_model_that_rewards_nothing_is_refused(reciting_model: Path) -> None:
    with pytest.raises(UserError, match="rewards none"):
        rewards(str(reciting_model))
