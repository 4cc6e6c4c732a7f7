"""Preference objectives in whole runs: what they are measured against, and what does not change them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.numpy import load_file

from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.train.network import Network
from danlu.train.objectives.pairs import document_logp
from danlu.train.objectives.reward import require_own_padding
from danlu.train.preference_settings import (
    DPOTrainSettings,
    KTOTrainSettings,
    ORPOTrainSettings,
    PreferenceTrainSettings,
    SimPOTrainSettings,
)

LORA = {"method": "lora", "rank": 4, "dropout": 0.5, "b_rate": 16.0}
FEW = {"steps": 4, "batch": 8, "rows": 4, "learning_rate": 1e-2, "warmup": 0.0}


@pytest.mark.parametrize(
    ("settings", "unit"),
    [(DPOTrainSettings(**FEW, tune=LORA), "pair"), (KTOTrainSettings(**FEW, tune=LORA), "labelled")],
    ids=["dpo", "kto"],
)
def test_the_reference_of_an_adapter_is_the_base(tmp_path: Path, settings: PreferenceTrainSettings, unit: str) -> None:
    """Its log-probabilities are a file, written before the adapter has moved: there is no second model."""
    tiny.run(tmp_path / "run", settings, unit)
    stream = tiny.stream(tmp_path / "data", unit)
    held = max(
        (load_file(path) for path in (tmp_path / "run" / "reference").glob("*.safetensors")),
        key=lambda columns: sum(map(len, columns.values())),
    )
    base, seen = Network(tiny.decoder(), torch.float32), 0
    with torch.no_grad():
        step = stream.once().step(0, stream.total, rows=4)
        for micro in (*step.micro, *step.aside):
            for slot, logp in enumerate(document_logp(base, micro.torch())[0].tolist()):
                if micro.doc["index"][slot] >= 0:
                    source, index = str(micro.source[slot]), micro.doc["index"][slot]
                    assert held[source][index] == pytest.approx(logp, abs=1e-4)
                    seen += 1
    assert seen == sum(map(len, held.values()))
    steps = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert steps[-1]["rewards_margin"] != steps[0]["rewards_margin"], "the adapter has moved"


def test_long_answers_lose_no_nats(tmp_path: Path) -> None:
    """A thousand nats in float32 have steps of 6e-5: more than the margins that training begins with."""
    stream = tiny.stream(tmp_path, "pair")
    batch = stream.step(0, 8, rows=4).micro[0].torch()
    logp_N = -100 * torch.rand(len(batch.targets), generator=torch.Generator().manual_seed(1))
    logp_D, length_D = document_logp(lambda *_, **__: {"logp": logp_N}, batch)
    slot_N, learned_N = batch.document[batch.targets], batch.target_weights != 0
    for slot in range(len(batch.cu) - 1):
        own_N = logp_N[learned_N & (slot_N == slot)].tolist()
        assert logp_D[slot].item() == pytest.approx(math.fsum(own_N), rel=1e-14)
        assert length_D[slot].item() == len(own_N)


@pytest.mark.parametrize("kind", [KTOTrainSettings, ORPOTrainSettings, SimPOTrainSettings])
def test_micro_batches_change_nothing(tmp_path: Path, kind: type[PreferenceTrainSettings]) -> None:
    """KTO's estimate is of the whole step, so it is the same in one micro-batch and in many."""
    unit = "labelled" if kind is KTOTrainSettings else "pair"
    found = []
    for rows in (2, 8):
        tiny.run(tmp_path / str(rows), kind(**{**FEW, "rows": rows}), unit, tmp_path / "data")
        found.append([row for row in read_metrics(tmp_path / str(rows) / "metrics.jsonl") if "loss" in row])
    for one, other in zip(*found, strict=True):
        for name in ("loss", "rewards_margin", "grad_norm", *(["kl"] if unit == "labelled" else [])):
            assert one[name] == pytest.approx(other[name], rel=2e-4, abs=2e-4), name


def test_padding_that_ends_answers_is_refused() -> None:
    """transformers scores the last token that is not padding."""
    source = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    made = tiny.tokenizer().with_chat_template(source)
    require_own_padding(Template(made))
    same = Tokenizer(made.backend, {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, source)
    with pytest.raises(UserError, match="the padding token too"):
        require_own_padding(Template(same))
