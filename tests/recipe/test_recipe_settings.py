"""What one section of a recipe gives another."""

from __future__ import annotations

import pytest

from danlu.config import check
from danlu.recipe.settings import Recipe

STAGE = {"data": {"sources": [{"path": "a.jsonl"}]}}


@pytest.mark.parametrize(
    ("model", "rows"),
    [({"hidden_size": 64}, 1_200), ({"hidden_size": 64, "vocab_size": 1_280}, 1_280)],
)
def test_a_learned_vocabulary_gives_the_embedding_its_size_unless_told(model: dict[str, int], rows: int) -> None:
    recipe = check(
        Recipe,
        {
            "name": "beans",
            "out": "runs",
            "tokenizer": {"train": {"vocab_size": 1_200}},
            "model": model,
            "pretrain": STAGE,
        },
    )
    assert recipe.model is not None and recipe.model.vocab_size == rows


def test_a_tokenizer_from_a_folder_leaves_the_model_as_it_is() -> None:
    recipe = check(
        Recipe,
        {"name": "beans", "out": "runs", "tokenizer": {"path": "words"}, "model": {"layers": 2}, "pretrain": STAGE},
    )
    assert recipe.model is not None and recipe.model.vocab_size == 151_936
