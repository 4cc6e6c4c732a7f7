"""Adapters on 7B and 13B, and all weights of 7B, on one GPU: danlu against TRL with PEFT, bitsandbytes and Liger.

    python benchmarks/lora.py --run lora|qlora|qlora-13b|full --data FOLDER --tokenizer FOLDER [--dropout P] [WAY ...]
    python benchmarks/lora.py --run qlora --gib 7 "danlu rows=1 recompute=true optimizer_states=8bit" …

FOLDER holds mini_qwen's sft/, whose first conversations are cut to a row and packed; the tokenizer's first 64,000
entries read them. A step is all of them, so that losses can be compared step by step: data, forward, backward, clipping
at 1, update. Weights are random, made on the device, and the same on both sides but for the roundings of NF4. TRL gets
its own packing, torch's variable-length FlashAttention, Liger's kernels, bf16 weights, for the adapters too where it
says so, and as many rows at once. With `--dropout` losses differ, as both draw their own. Any way that begins with
danlu is settings of TrainSettings. Memory is the most that tensors held after the model was made; `device` all that was
taken of the GPU, pages that bitsandbytes moves included. `--gib` lets no more than that be taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fine_tuning
from chain import PEAK, Column, is_ours, parser
from danlu.ledger.metrics import read_metrics
from danlu.model.nf4 import quantise
from danlu.model.settings import ModelSettings, matmul_parameters, training_flops
from danlu.recipe.job import TrainingJob, training_stream
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA, QLoRA
from random_weights import first_entries, random_decoder, random_weight, started_from
from training import SEVEN, value_of

THIRTEEN = SEVEN.model_copy(
    update={"hidden_size": 5_120, "layers": 40, "heads": 40, "kv_heads": 40, "mlp_size": 13_696}
)
TINY = ModelSettings(
    family="llama", vocab_size=2_048, hidden_size=64, layers=2, heads=4, mlp_size=128, tie_embeddings=False
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A shape, the length of its rows, what is trained, and the ways that are compared."""

    shape: ModelSettings
    length: int
    tune: dict[str, Any]
    ways: dict[str, dict[str, Any]]


LORA = {"method": "lora", "rank": 16, "alpha": 32.0}
QLORA = {"method": "qlora", "rank": 64, "alpha": 128.0}
CASES = {
    "lora": Case(
        SEVEN,
        2_048,
        LORA,
        {
            "danlu rows=4": {},
            "danlu rows=4 precision=float8": {},
            "TRL, Liger, 4 rows": {"rows": 4, "liger": True},
            "TRL, Liger, 4 rows, bf16 adapters": {"rows": 4, "liger": True, "narrow": True},
        },
    ),
    "qlora": Case(
        SEVEN,
        1_024,
        QLORA,
        {
            "danlu": {},
            "danlu precision=float8": {},
            "TRL, Liger, 8 rows": {"rows": 8, "liger": True},
            "TRL, Liger, 16 rows": {"rows": 16, "liger": True},
        },
    ),
    "qlora-13b": Case(
        THIRTEEN,
        1_024,
        QLORA,
        {"danlu": {}, "danlu precision=float8": {}, "TRL, Liger, 6 rows": {"rows": 6, "liger": True}},
    ),
    "full": Case(
        SEVEN,
        2_048,
        {"method": "full"},
        {
            "danlu rows=2 optimizer_states=8bit": {},
            "TRL, Liger, 2 rows, 8-bit, bf16 weights": {"rows": 2, "liger": True},
        },
    ),
}
OTHERS: dict[str, dict[str, Any]] = {
    "TRL, 4 rows": {"rows": 4},
    "TRL, Liger, 1 row, checkpointing": {"rows": 1, "liger": True, "checkpointing": True},
    "TRL, Liger, 8 rows, checkpointing": {"rows": 8, "liger": True, "checkpointing": True},
    "TRL, Liger, 8 rows, paged": {"rows": 8, "liger": True, "optim": "paged_adamw_32bit"},
}
COLUMNS: list[Column] = [
    ("rows", "rows", ".0f"),
    ("tokens/s", "useful_tokens_per_second", ",.0f"),
    ("ratio", "useful_tokens_per_second", "x"),
    ("MFU", "mfu", ".1%"),
    ("padding", "padding", ".1%"),
    ("GiB", "peak_gib", ".2f"),
    ("reserved", "reserved_gib", ".2f"),
    ("device", "device_gib", ".2f"),
    ("update ms", "update_ms", ".1f"),
    ("1st step s", "first_step_seconds", ".1f"),
    ("loss 1", "first_loss", ".4f"),
    ("loss end", "last_loss", ".4f"),
]
RATE = {"full": 1e-5, "lora": 2e-4, "qlora": 2e-4}


def case_of(given: argparse.Namespace) -> Case:
    case = CASES[given.run]
    if "rank" not in case.tune:
        return dataclasses.replace(case, shape=TINY, length=96) if given.tiny else case
    tune = {**case.tune, "dropout": given.dropout}
    return Case(TINY, 96, {**tune, "rank": 4}, case.ways) if given.tiny else dataclasses.replace(case, tune=tune)


def prepare(given: argparse.Namespace, work: Path) -> None:
    """Writes the cut rows, the tokenizer, the packed rows and the job that danlu runs."""
    case, rows = case_of(given), work / "rows"
    rows.mkdir()
    words = first_entries(given.tokenizer, case.shape.vocab_size, work / "words")
    tokenizer = fine_tuning.tokenizer_of(words)
    most = 8 if given.tiny else given.examples
    fine_tuning.write_conversations(rows / "rows.jsonl", given.data, tokenizer, case.length, most)
    more = [f"sft.data.length={case.length}", f"sft.train.tune={json.dumps(case.tune)}"]
    with started_from(lambda: None, case.shape, work / "start"):  # type: ignore[arg-type, return-value]
        job = fine_tuning.pack("sft", work, words, work / "start", more)
    calm = {"learning_rate": RATE[case.tune["method"]], "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    precision = "bf16" if given.device == "cuda" else "float32"
    settings = {"batch": training_stream(job).epoch, "epochs": float(given.epochs), "precision": precision, **calm}
    train = job.train.model_copy(update=settings)
    (work / "job.json").write_text(job.model_copy(update={"train": train}).model_dump_json(by_alias=True))


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    case, job = case_of(given), fine_tuning.read_job(given.work)
    once = training_stream(job).once()
    lengths = [len(taken.documents[0]) for taken in once.examples(0, once.epoch)]
    known = {**OTHERS, **case.ways}
    found = ours(way, case, job, given) if is_ours(way) else theirs(case, job, given, **known[way])
    seconds = statistics.median(b - a for a, b in pairwise(found["ends"][fine_tuning.WARM - 1 :]))
    return {
        "rows": found["rows"],
        "samples": len(lengths),
        "tokens_a_sample": sum(lengths) / len(lengths),
        "useful_tokens_per_second": sum(lengths) / seconds,
        "mfu": _flops(case, lengths) / seconds / PEAK,
        "padding": found.get("padding"),
        "peak_gib": fine_tuning.peak_gib(given.device),
        **_taken(given.device),
        "update_ms": found.get("update_ms"),
        "first_step_seconds": found["ends"][0] - found["began"],
        "first_loss": found["losses"][0],
        "last_loss": found["losses"][-1],
        "losses": found["losses"],
    }


def _flops(case: Case, lengths: list[int]) -> float:
    """Without the gradients of frozen weights, and without what recomputation computes again."""
    frozen = 0.0 if case.tune["method"] == "full" else 2 * matmul_parameters(case.shape) * sum(lengths)
    return training_flops(case.shape, lengths) - frozen


def _taken(device: str) -> dict[str, float]:
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"reserved_gib": torch.cuda.max_memory_reserved() / 2**30, "device_gib": (total - free) / 2**30}


def _made(given: argparse.Namespace) -> None:
    """From here on memory counts."""
    if given.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if given.gib:
            torch.cuda.set_per_process_memory_fraction(given.gib * 2**30 / torch.cuda.mem_get_info()[1])


def ours(way: str, case: Case, job: TrainingJob, given: argparse.Namespace) -> dict[str, Any]:
    values = dict(item.split("=", 1) for item in way.split()[1:])
    settings = job.train.model_dump() | {key: value_of(value) for key, value in values.items()}
    job = job.model_copy(update={"train": TrainSettings.model_validate(settings)})
    frozen = isinstance(job.train.tune, LoRA)
    dtype = torch.bfloat16 if frozen and given.device == "cuda" else torch.float32
    nf4 = quantise if isinstance(job.train.tune, QLoRA) else None
    decoder = random_decoder(case.shape, dtype, given.device, nf4)
    _made(given)
    with started_from(lambda: decoder, case.shape, given.work / "start"), tempfile.TemporaryDirectory() as out:
        found = fine_tuning.ours(job, Path(out) / "run")
        rows = [row for row in read_metrics(Path(out) / "run" / "metrics.jsonl") if "time_optimizer" in row]
    ends = [found["began"], *found["ends"]]
    updates = [row["time_optimizer"] * (b - a) for row, (a, b) in zip(rows, pairwise(ends), strict=True)]
    padding = statistics.median(1 - row["useful_share"] for row in rows)
    return found | {"update_ms": 1e3 * statistics.median(updates[fine_tuning.WARM - 1 :]), "padding": padding}


def theirs(
    case: Case,
    job: TrainingJob,
    given: argparse.Namespace,
    rows: int,
    liger: bool = False,
    narrow: bool = False,
    checkpointing: bool = False,
    optim: str | None = None,
) -> dict[str, Any]:
    from peft import LoraConfig, get_peft_model

    tune, quantised = job.train.tune, isinstance(job.train.tune, QLoRA)
    model = their_model(case.shape, given.device, quantised)
    if isinstance(tune, LoRA):
        config = LoraConfig(
            r=tune.rank,
            lora_alpha=int(tune.alpha or 2 * tune.rank),
            lora_dropout=tune.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config, autocast_adapter_dtype=not narrow)
    _made(given)
    usual = "adamw_bnb_8bit" if quantised or not isinstance(tune, LoRA) else "adamw_torch_fused"
    optim = optim or (usual if given.device == "cuda" else "adamw_torch_fused")
    more = {"gradient_checkpointing": checkpointing, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return fine_tuning.trl_sft(model, job, given, rows, use_liger_kernel=liger, optim=optim, **more)


@torch.no_grad()
def their_model(shape: ModelSettings, device: str, quantised: bool) -> Any:
    """transformers' own class with the weights of `random_decoder`; its layers' linears in bitsandbytes' NF4."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.mlp_size,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=False,
        use_cache=False,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        attention = fine_tuning.torch_flash()
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).train()
    for name, parameter in model.named_parameters():
        parameter.copy_(random_weight(name, parameter))
    if quantised:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name != "lm_head":
                model.set_submodule(name, _in_nf4(module, device, dtype))
        model.is_loaded_in_4bit = True  # as from_pretrained says it
    return model


def _in_nf4(linear: nn.Linear, device: str, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    made = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    made.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=made)
    return made.to(device)


def main() -> None:
    options = parser(__doc__, [way for case in CASES.values() for way in case.ways] + list(OTHERS))
    options.set_defaults(ways=None)
    options.add_argument("--run", choices=list(CASES), required=True)
    fine_tuning.common_options(options, epochs=5, part="sft")
    options.add_argument("--examples", type=int, default=100, help="conversations, all of which a step takes")
    options.add_argument("--dropout", type=float, default=0.0, help="of the adapters' inputs")
    options.add_argument("--gib", type=float, help="the most that may be taken of the GPU")
    given = options.parse_args()
    given.ways = given.ways or list(CASES[given.run].ways)
    found = fine_tuning.compare(given, prepare, measure)
    if found:
        print(f"{given.run}: {found[0]['samples']} samples of {found[0]['tokens_a_sample']:.0f} tokens a step")
        fine_tuning.show_with_losses(given, found, COLUMNS, run=given.run)


if __name__ == "__main__":
    main()
