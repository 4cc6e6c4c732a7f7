"""Thirty steps against transformers' own Trainer: same weights, same examples, AdamW, accumulation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from danlu.ledger.metrics import read_metrics
from danlu.model.folder import save_decoder
from danlu.train.loop import train
from danlu.train.objectives.next_token import NextToken
from danlu.train.settings import TrainSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny

STEPS, BATCH = 30, 8


class InOrder(Trainer):
    """The Trainer on its data as it lies."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }


def theirs(folder: Path, stream: Any, out: Path) -> list[dict[str, float]]:
    """What the Trainer logs, one document a row, accumulating two micro-batches."""
    rows = []
    for taken in stream.examples(0, stream.total):
        (document,) = taken.documents
        tokens = torch.tensor(document.encoded.tokens.astype("int64"))
        weights = torch.tensor(document.encoded.weights)
        rows.append(
            {
                "input_ids": tokens,
                "labels": torch.where(weights > 0, tokens, -100),
                "attention_mask": torch.ones_like(tokens),
            }
        )
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // 2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=0.5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = InOrder(model=model, args=arguments, train_dataset=rows, data_collator=padded)
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("pack", ["none", "best_fit"])
def test_thirty_steps_equal_the_trainers(tmp_path: Path, pack: str) -> None:
    stream = tiny.stream(tmp_path / "data", examples=STEPS * BATCH, pack=pack)
    save_decoder(tiny.decoder(), tmp_path / "start")
    settings = TrainSettings(
        batch=BATCH, rows=3, learning_rate=1e-2, schedule="cosine", warmup=0.0, floor=0.0, weight_decay=0.1, clip=0.5
    )
    out = tmp_path / "run"
    train(settings, NextToken(), tiny.decoder(), tiny.tokenizer(), None, stream, {}, out, device="cpu")
    ours = read_metrics(out / "metrics.jsonl")
    logged = theirs(tmp_path / "start", stream, tmp_path / "trainer")
    assert len(ours) == len(logged) == STEPS
    # The Trainer rounds nothing but its clock: losses are equal to float32's noise over all thirty steps.
    worst = max(abs(mine["loss"] - other["loss"]) for mine, other in zip(ours, logged, strict=True))
    norms = max(abs(mine["grad_norm"] / other["grad_norm"] - 1) for mine, other in zip(ours, logged, strict=True))
    print(f"largest difference: loss {worst:.1e}, gradient norm {norms:.1e} relative")
    assert worst < 1e-4 and norms < 1e-3
    assert [row["learning_rate"] for row in ours] == pytest.approx([row["learning_rate"] for row in logged])
