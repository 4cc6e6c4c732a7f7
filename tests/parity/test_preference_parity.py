"""Reward model, KTO, ORPO and SimPO: against their formulas in float64 numpy, TRL's own code, and its trainers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from danlu.ledger.metrics import read_metrics
from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.reward_head import reward_decoder
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import BAD, GOOD, Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.train.loop import train
from danlu.train.network import Network
from danlu.train.objectives.pairs import document_logp
from danlu.train.objectives.reward import MARGIN
from danlu.train.objectives.table import objective_of
from danlu.train.preference_settings import (
    KTOTrainSettings,
    ORPOTrainSettings,
    PreferenceTrainSettings,
    RewardTrainSettings,
    SimPOTrainSettings,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny

PAIRS = [
    ("?", "唐代诗人。", "我我我我我我"),
    ("=", "4", "5, or perhaps 22"),
    ("W", "Nobody 🙂", "ha ha ha ha"),
    ("a", "一种点心", "绿绿"),
    ("1", "2", "3"),
    ("s", "你好!hello", "再见"),
    ("b", "b", "ccccc"),
    ("T", "Once upon", "no no"),
]
"""One-byte prompts: TRL's ORPO learns the prompt too, of which the first token has no loss."""
MARGINS = np.array([0.5, 1.0, 0.0, 2.0, 0.25, 1.5, 0.75, 3.0], np.float32)
GOODS = [True, False, True, True, False, True, False, True]
LENGTH, STEPS = 64, 6
NONE = np.zeros(0, np.int32)
RATES = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0, "clip": 1.0, "batch": 2, "rows": 2}


def encoded(prompt: str, answer: str) -> Encoded:
    tokenizer = tiny.tokenizer()
    before, after = tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_id]
    weights = np.array([0.0] * len(before) + [1.0] * len(after), np.float32)
    return Encoded(np.array(before + after, np.uint32), weights, NONE, NONE, NONE, NONE, 0)


def stream_of(folder: Path, unit: str, examples: list[Example], columns: dict[str, Any] | None = None) -> Stream:
    with TokenSetWriter(folder, unit, Spelling.of(tiny.tokenizer()), tokenizer="t") as writer:
        for example in examples:
            writer.add(example)
    sets = [(TokenSet.open(folder), 1.0)]
    return Stream(sets, length=LENGTH, unit=unit, pack="best_fit", seed=5, epochs=3, columns=columns)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    examples = [Example([encoded(p, good), encoded(p, bad)], "pairs", n) for n, (p, good, bad) in enumerate(PAIRS)]
    folder = tmp_path_factory.mktemp("pairs") / "set"
    return stream_of(folder, "pair", examples, {MARGIN: [np.repeat(MARGINS, 2)]})


def answers(number: int) -> tuple[str, str]:
    """The answer to a prompt that is labelled, and the one beside it that was given to another prompt."""
    return PAIRS[number][1 if GOODS[number] else 2], PAIRS[number - 1][2]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    examples = [
        Example([encoded(PAIRS[n][0], said) for said in answers(n)], "labelled", n, (GOOD if GOODS[n] else BAD,))
        for n in range(len(PAIRS))
    ]
    return stream_of(tmp_path_factory.mktemp("labelled") / "set", "labelled", examples)


def logps(decoder: Decoder, texts: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probabilities of the answers and their tokens, from all logits of one text at a time."""
    sums, lengths = [], []
    for prompt, answer in texts:
        document = encoded(prompt, answer)
        tokens = torch.tensor(document.tokens.astype(np.int64))[None]
        with torch.no_grad():
            logp = decoder.head.logits(hidden(decoder, tokens))[0, :-1].log_softmax(-1)
        picked = logp.gather(-1, tokens[0, 1:, None])[:, 0].numpy()
        sums.append(float((picked * document.weights[1:]).sum()))
        lengths.append(int(document.weights.sum()))
    return np.array(sums), np.array(lengths)


def hidden(decoder: Decoder, tokens: Tensor) -> Tensor:
    attend = Documents(torch.zeros(1), tokens.shape[1], torch.zeros_like(tokens), dtype=torch.float64)
    return decoder(tokens, torch.arange(tokens.shape[1])[None], attend)


def measured(
    settings: PreferenceTrainSettings,
    decoder: Decoder,
    stream: Stream,
    start: Decoder | None = None,
    columns: dict[str, Any] | None = None,
) -> Any:
    """What the objective reports of the whole stream in one packed step, float64."""
    step = stream.once().with_columns(columns or {}).step(0, len(PAIRS), rows=4)
    objective = objective_of(settings)
    if start is not None:
        with torch.no_grad():
            for batch in (*step.micro, *step.aside):
                batch.doc["reference"] = document_logp(Network(start, torch.float64), batch.torch())[0].numpy()
    network = Network(decoder, torch.float64)
    prepared = objective.prepared(network, [batch.torch() for batch in step.aside], lambda sums: sums)
    found = [prepared.compute(network, batch.torch())[1] for batch in step.micro]
    sums = dict(zip(objective.sums, (sum(map(float, values)) for values in zip(*found, strict=True)), strict=True))
    return objective.report(sums, objective.normaliser(step), 0)


CPU = SimpleNamespace(device="cpu")


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def close(ours: dict[str, float], wanted: dict[str, float], limit: float = 1e-9) -> None:
    differences = {name: abs(ours[name] - float(value)) for name, value in wanted.items()}
    print({name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) < limit, (ours, wanted)


def test_simpo_in_float64(pairs: Stream) -> None:
    decoder = tiny.decoder(torch.float64, seed=4)
    (good, m), (bad, n) = (logps(decoder, [(p, said[side]) for p, *said in PAIRS]) for side in (0, 1))
    ours = measured(SimPOTrainSettings(beta=2.5, gamma=0.7), decoder, pairs)
    margin = 2.5 * good / m - 2.5 * bad / n
    wanted = {"loss": softplus(0.7 - margin).mean(), "rewards_margin": margin.mean()}
    close(ours, wanted | {"rewards_accuracy": (margin > 0).mean(), "logp_rejected": bad.mean()})
    trl = SimpleNamespace(alpha=0.0, loss_type="simpo", simpo_gamma=0.7, beta=2.5, label_smoothing=0.0, accelerator=CPU)
    close(ours, {"loss": CPOTrainer.cpo_loss(trl, torch.tensor(good / m), torch.tensor(bad / n))[0].mean()})


def test_orpo_in_float64(pairs: Stream) -> None:
    decoder = tiny.decoder(torch.float64, seed=4)
    (good, m), (bad, n) = (logps(decoder, [(p, said[side]) for p, *said in PAIRS]) for side in (0, 1))
    ours = measured(ORPOTrainSettings(beta=0.3), decoder, pairs)
    odds = [np.exp(mean) / (1 - np.exp(mean)) for mean in (good / m, bad / n)]
    ratio = np.log(odds[0] / odds[1])
    wanted = {"loss": (-good / m + 0.3 * softplus(-ratio)).mean(), "nll": (-good / m).mean()}
    close(ours, wanted | {"log_odds_ratio": ratio.mean(), "rewards_chosen": 0.3 * (good / m).mean()})
    trl = SimpleNamespace(beta=0.3, accelerator=CPU)
    theirs = ORPOTrainer.odds_ratio_loss(trl, torch.tensor(good / m), torch.tensor(bad / n))  # in float32 inside
    close(ours, {"loss": (-good / m).mean() - float(theirs[0].mean()), "log_odds_ratio": theirs[4]}, 1e-5)


@pytest.mark.parametrize("seeds", [(4, 3), (3, 4)], ids=["further from the reference", "nearer than 0"])
def test_kto_in_float64(labelled: Stream, seeds: tuple[int, int]) -> None:
    start, moved = (tiny.decoder(torch.float64, seed=seed) for seed in seeds)
    settings = KTOTrainSettings(beta=0.3, desirable_weight=1.2, undesirable_weight=0.6)
    said, other = ([(PAIRS[n][0], answers(n)[side]) for n in range(len(PAIRS))] for side in (0, 1))
    gain, others = (logps(moved, texts)[0] - logps(start, texts)[0] for texts in (said, other))
    kl, good = max(0.0, others.mean()), np.array(GOODS)
    assert (kl > 0) == (seeds == (4, 3))
    value = 1 / (1 + np.exp(-0.3 * np.where(good, gain - kl, kl - gain)))
    wanted = {
        "loss": (np.where(good, 1.2, 0.6) * (1 - value)).mean(),
        "kl": kl,
        "rewards_chosen": 0.3 * gain[good].mean(),
        "rewards_rejected": 0.3 * gain[~good].mean(),
    }
    close(measured(settings, moved, labelled, start), wanted)


@pytest.mark.parametrize("margins", [False, True])
def test_reward_in_float64(pairs: Stream, margins: bool) -> None:
    decoder = reward_decoder(tiny.decoder(torch.float64, seed=4), seed=1).double()
    assert decoder.reward is not None
    rewards = []
    for prompt, *said in PAIRS:
        for one in said:
            tokens = torch.tensor(encoded(prompt, one).tokens.astype(np.int64))[None]
            rewards.append(float((hidden(decoder, tokens)[0, -1] @ decoder.reward.score.weight[0]).detach()))
    good, bad = np.array(rewards).reshape(-1, 2).T
    columns = {MARGIN: [np.repeat(MARGINS, 2)]} if margins else {}
    ours = measured(RewardTrainSettings(center=0.2), decoder, pairs, columns=columns)
    loss = softplus(-(good - bad - MARGINS * margins)) + 0.2 * (good + bad) ** 2
    close(ours, {"loss": loss.mean(), "rewards_margin": (good - bad).mean(), "rewards_accuracy": (good > bad).mean()})


class InOrder:
    """Mixed into TRL's trainers: the data as it lies."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


def order_of(stream: Stream) -> list[int]:
    return [taken.documents[0].index // 2 for taken in stream.examples(0, STEPS * 2)]


def arguments(kind: Any, out: Path, **more: Any) -> Any:
    fixed = {
        "output_dir": str(out), "max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "adam_beta2": 0.95, "max_grad_norm": 1.0, "logging_steps": 1, "bf16": False,
        "gradient_checkpointing": False, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "max_length": LENGTH,
    }  # fmt: skip
    return kind(**{**fixed, **more})


def run_both(
    oracle: Any, settings: Any, decoder: Decoder, stream: Stream, out: Path, names: dict[str, str]
) -> list[dict[str, float]]:
    """Six updates of two examples each by TRL's trainer and by ours, float32."""
    oracle.train()
    theirs = [row for row in oracle.state.log_history if "loss" in row]
    train(settings, objective_of(settings), decoder, tiny.tokenizer(), None, stream, {}, out / "run", device="cpu")
    ours = read_metrics(out / "run" / "metrics.jsonl")[:STEPS]
    assert len(ours) == len(theirs) == STEPS
    differences = {
        mine: max(abs(row[mine] - other[name]) for row, other in zip(ours, theirs, strict=True))
        for mine, name in names.items()
    }
    print({name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) < 1e-3
    assert abs(ours[-1]["loss"] - ours[0]["loss"]) > 1e-3, "the weights have moved"
    return ours


def rows(stream: Stream) -> Dataset:
    names = ("prompt", "chosen", "rejected")
    return Dataset.from_list([dict(zip(names, PAIRS[number], strict=True)) for number in order_of(stream)])


def start(folder: Path) -> tuple[Any, Any]:
    save_decoder(tiny.decoder(), folder, tiny.tokenizer())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


REWARDS = {"loss": "loss", "rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected"}


def test_whole_steps_of_simpo(tmp_path: Path, pairs: Stream) -> None:
    model, tokenizer = start(tmp_path / "start")
    more = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.5}

    class Oracle(InOrder, CPOTrainer):
        pass

    oracle = Oracle(
        model, args=arguments(CPOConfig, tmp_path / "o", **more), train_dataset=rows(pairs), processing_class=tokenizer
    )
    settings = SimPOTrainSettings(**RATES, beta=2.0, gamma=0.5)
    run_both(oracle, settings, tiny.decoder(), pairs, tmp_path, REWARDS)


def test_whole_steps_of_orpo(tmp_path: Path, pairs: Stream) -> None:
    """One pair at a time in TRL, accumulated: its likelihood is a mean over the tokens of a micro-batch."""
    model, tokenizer = start(tmp_path / "start")

    class Oracle(InOrder, ORPOTrainer):
        pass

    more = {"beta": 0.3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    oracle = Oracle(
        model, args=arguments(ORPOConfig, tmp_path / "o", **more), train_dataset=rows(pairs), processing_class=tokenizer
    )
    names = REWARDS | {"nll": "nll_loss", "log_odds_ratio": "log_odds_chosen"}
    run_both(oracle, ORPOTrainSettings(**RATES, beta=0.3), tiny.decoder(), pairs, tmp_path, names)


def test_whole_steps_of_the_reward_model(tmp_path: Path, pairs: Stream) -> None:
    decoder = reward_decoder(tiny.decoder(), seed=2)
    save_decoder(decoder, tmp_path / "start", tiny.tokenizer())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start")
    dataset = [
        {"chosen": good, "rejected": bad, "prompt": prompt, "margin": float(MARGINS[number])}
        for number in order_of(pairs)
        for prompt, good, bad in [PAIRS[number]]
    ]

    class Oracle(InOrder, RewardTrainer):
        pass

    oracle = Oracle(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "start", dtype=torch.float32),
        args=arguments(RewardConfig, tmp_path / "o", center_rewards_coefficient=0.05),
        train_dataset=Dataset.from_list(dataset),
        processing_class=tokenizer,
    )
    settings = RewardTrainSettings(**RATES, center=0.05)
    names = {"loss": "loss", "rewards_accuracy": "accuracy", "rewards_margin": "margin"}
    run_both(oracle, settings, decoder, pairs, tmp_path, names)


def test_whole_steps_of_kto(tmp_path: Path, labelled: Stream) -> None:
    """TRL's estimate takes the answers of a batch in turn; here it gets ours."""
    model, tokenizer = start(tmp_path / "start")
    order = order_of(labelled)
    dataset = [{"prompt": PAIRS[n][0], "completion": answers(n)[0], "label": GOODS[n]} for n in order]

    class Oracle(InOrder, KTOTrainer):
        pass

    oracle = Oracle(
        model,
        args=arguments(KTOConfig, tmp_path / "o", beta=0.3, desirable_weight=1.5),
        train_dataset=Dataset.from_list(dataset),
        processing_class=tokenizer,
    )
    others = [[*tiny.tokenizer().encode(answers(n)[1]), tiny.tokenizer().eos_id] for n in order]
    given = oracle.train_dataset.remove_columns("KL_completion_ids")
    oracle.train_dataset = given.add_column("KL_completion_ids", others)
    settings = KTOTrainSettings(**RATES, beta=0.3, desirable_weight=1.5)
    ours = run_both(oracle, settings, tiny.decoder(), labelled, tmp_path, {"loss": "loss", "kl": "kl"})
    assert max(row["kl"] for row in ours) > 0.01, "the estimate is at work"
