"""DPO against TRL: its loss function in float64, and whole steps of its trainer in float32."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from danlu.ledger.metrics import read_metrics
from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.train.loop import train
from danlu.train.network import Network
from danlu.train.objectives.dpo import DPO
from danlu.train.objectives.pairs import document_logp
from danlu.train.preference_settings import DPOTrainSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny

PAIRS = [
    ("李白是谁?", "唐代诗人。", "我我我我我我"),
    ("2+2=", "4", "5, or perhaps 22"),
    ("Who?", "Nobody 🙂", "ha ha ha ha"),
    ("绿豆糕", "一种点心", "绿绿"),
    ("1+1=", "2", "3"),
    ("说 hello", "你好!hello", "再见"),
    ("a", "b", "ccccc"),
    ("Tell", "Once upon", "no no"),
]
LENGTH = 64
LOSSES = [("sigmoid", 0.0, "sigmoid"), ("ipo", 0.0, "ipo"), ("hinge", 0.0, "hinge"), ("sigmoid", 0.1, "aot_unpaired")]
"""Ours, our label smoothing, and TRL's name; its sorted AOT loss is the smoothed sigmoid for one pair at a time."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    folder = tmp_path_factory.mktemp("pairs") / "set"
    tokenizer = tiny.tokenizer()
    none = np.zeros(0, np.int32)
    with TokenSetWriter(folder, "pair", Spelling.of(tokenizer), tokenizer="t") as writer:
        for number, (prompt, *answers) in enumerate(PAIRS):
            documents = []
            for answer in answers:
                before, after = tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_id]
                weights = np.array([0.0] * len(before) + [1.0] * len(after), np.float32)
                tokens = np.array(before + after, np.uint32)
                documents.append(Encoded(tokens, weights, none, none, none, none, 0))
            writer.add(Example(documents, "pairs", number))
    return Stream([(TokenSet.open(folder), 1.0)], length=LENGTH, unit="pair", pack="best_fit", seed=5, epochs=3)


class InOrder(DPOTrainer):
    """The trainer on its data as it lies."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def trainer(folder: Path, out: Path, order: list[int], loss: str, smoothing: float, **more: Any) -> InOrder:
    names = ("prompt", "chosen", "rejected")
    arguments = DPOConfig(
        output_dir=str(out),
        loss_type=loss,
        label_smoothing=smoothing,
        beta=0.3,
        max_length=LENGTH,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **more,
    )
    return InOrder(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list([dict(zip(names, PAIRS[number], strict=True)) for number in order]),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


def order_of(stream: Stream) -> list[int]:
    return [taken.documents[0].index // 2 for taken in stream.examples(0, stream.total)]


@pytest.mark.parametrize(("loss", "smoothing", "name"), LOSSES)
def test_loss_and_rewards_in_float64(tmp_path: Path, stream: Stream, loss: str, smoothing: float, name: str) -> None:
    """TRL's own loss code on float64 logits, pair by pair; ours on packed rows."""
    start, moved = tiny.decoder(torch.float64, seed=3), tiny.decoder(torch.float64, seed=4)
    save_decoder(moved, tmp_path / "model", tiny.tokenizer())
    step = stream.once().step(0, len(PAIRS), rows=4)
    with torch.no_grad():
        for batch in step.micro:
            batch.doc["reference"] = document_logp(Network(start, torch.float64), batch.torch())[0].numpy()
    objective = DPO(DPOTrainSettings(loss=loss, label_smoothing=smoothing, beta=0.3))
    network = Network(moved, torch.float64)
    parts = [objective.compute(network, batch.torch()) for batch in step.micro]
    sums = {key: sum(float(part[1][at]) for part in parts) for at, key in enumerate(objective.sums)}
    ours = objective.report(sums, objective.normaliser(step), 0)

    oracle = trainer(tmp_path / "model", tmp_path / "out", list(range(len(PAIRS))), name, smoothing)
    policy, oracle.ref_model = plain(moved), plain(start)
    collated = [oracle.data_collator([row]) for row in oracle.train_dataset]
    with torch.no_grad():
        losses = [float(oracle._compute_loss(policy, inputs, False)) for inputs in collated]
    logged = oracle._metrics["train" if oracle.model.training else "eval"]
    difference = max(
        abs(ours["loss"] - np.mean(losses)),
        *(
            abs(ours[mine] - np.mean(logged[other]))
            for mine, other in [
                ("rewards_chosen", "rewards/chosen"),
                ("rewards_rejected", "rewards/rejected"),
                ("rewards_margin", "rewards/margins"),
                ("rewards_accuracy", "rewards/accuracies"),
                ("logp_chosen", "logps/chosen"),
            ]
        ),
    )
    print(f"{loss} {smoothing}: largest difference {difference:.1e}")
    assert difference < 1e-9


def plain(decoder: Decoder) -> Any:
    """What TRL asks of a model, from all logits of padded rows: transformers' own norms would round to float32."""

    def forward(input_ids: Any, attention_mask: Any, labels: Any, **_: Any) -> SimpleNamespace:
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        apart = attention_mask + 2 * torch.arange(len(input_ids))[:, None]
        attend = Documents(torch.zeros(1), input_ids.shape[1], apart, dtype=torch.float64)
        logits = decoder.head.logits(decoder(input_ids, positions, attend))[:, :-1]
        labels = labels[:, 1:]
        logp = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
        zeros = torch.zeros_like(logp)
        return SimpleNamespace(
            log_probs=torch.where(labels == -100, 0.0, logp), entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )

    return forward


@pytest.mark.parametrize(("loss", "smoothing", "name"), LOSSES[:3])
def test_whole_steps_in_float32(tmp_path: Path, stream: Stream, loss: str, smoothing: float, name: str) -> None:
    """Twelve updates of two pairs each: TRL's trainer and ours."""
    save_decoder(tiny.decoder(), tmp_path / "start", tiny.tokenizer())
    oracle = trainer(
        tmp_path / "start",
        tmp_path / "out",
        order_of(stream),
        name,
        smoothing,
        max_steps=12,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        logging_steps=1,
    )
    oracle.train()
    theirs = [row for row in oracle.state.log_history if "loss" in row]
    settings = DPOTrainSettings(
        batch=2, rows=2, learning_rate=1e-3, schedule="constant", warmup=0.0, clip=1.0, beta=0.3, loss=loss
    )
    out = tmp_path / "run"
    train(settings, DPO(settings), tiny.decoder(), tiny.tokenizer(), None, stream, {}, out, device="cpu")
    ours = read_metrics(out / "metrics.jsonl")
    assert len(ours) == len(theirs) == 12
    pairs = [("loss", "loss"), ("rewards_chosen", "rewards/chosen"), ("rewards_rejected", "rewards/rejected")]
    differences = {
        mine: max(abs(row[mine] - other[name]) for row, other in zip(ours, theirs, strict=True)) for mine, name in pairs
    }
    print(loss, {name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) < 1e-3
    assert abs(ours[-1]["rewards_margin"]) > 0.05, "the weights have moved"
