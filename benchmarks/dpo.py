"""Direct preference optimisation of the mini_qwen 1B shape on its real pairs: danlu against TRL's DPOTrainer.

    python benchmarks/dpo.py --data FOLDER --tokenizer FOLDER [--history 0] [--epochs 5] [--json FILE] [WAY ...]

FOLDER holds mini_qwen's dpo/; prompts are cut to their last 512 tokens and answers to what then fits into 1,024, so
both sides see the same tokens. A step is the whole set, so that losses can be compared step by step; both have the
reference's log-probabilities computed beforehand, which is timed apart. TRL pads (its padding-free mode is switched off
in the releases since 1.10), with SDPA, which takes masks; float32 weights under bf16 autocast, without it and with bf16
weights and moments where it says so; `pip install trl liger-kernel`. With --history so many tokens of other rows'
dialogues come before each prompt, as earlier turns, and rows are longer by as much. MFU counts what is computed: a
prompt that both answers share once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch

import fine_tuning
from chain import PEAK, Column, is_ours, parser
from danlu.model.settings import training_flops
from danlu.recipe.job import TrainingJob, training_stream
from danlu.train import network

WAYS: dict[str, dict[str, Any]] = {
    "danlu": {},
    "danlu, prompts told twice": {},
    "danlu, float32": {},
    "TRL": {"pairs": 8},
    "TRL, float32": {"pairs": 8, "autocast": False},
    "TRL, Liger": {"pairs": 8, "liger": True},
    "TRL, Liger, bf16 weights": {"pairs": 8, "liger": True, "dtype": "bfloat16"},
}
COLUMNS: list[Column] = [
    ("rows", "rows", ".0f"),
    ("pairs/s", "pairs_per_second", ",.1f"),
    ("tokens/s", "useful_tokens_per_second", ",.0f"),
    ("ratio", "pairs_per_second", "x"),
    ("MFU", "mfu", ".1%"),
    ("padding", "padding", ".1%"),
    ("GiB", "peak_gib", ".1f"),
    ("to 1st step s", "first_step_seconds", ".1f"),
    ("loss 1", "first_loss", ".4f"),
    ("loss end", "last_loss", ".4f"),
]
RATE, BETA = 1e-6, 0.1


def prepare(given: argparse.Namespace, work: Path) -> None:
    """Writes the cut pairs, the weights to start from and the job that danlu runs."""
    tokenizer = fine_tuning.tokenizer_of(given.tokenizer)
    length, rows = fine_tuning.length_of(given.tiny) + given.history, work / "rows"
    rows.mkdir()
    found = list(islice(fine_tuning.read_rows(given.data, "dpo"), 8 if given.tiny else None))
    with (rows / "rows.jsonl").open("w", encoding="utf-8") as handle:
        for number, row in enumerate(found):
            others = [*found[number + 1 :], *found[:number]]
            earlier = _history([message for one in others for message in one["chosen"]], tokenizer, given.history)
            pair = _pair({**row, "chosen": [*earlier, *row["chosen"]]}, tokenizer, length, given.history)
            handle.write(json.dumps(pair, ensure_ascii=False) + "\n")
    start = fine_tuning.write_start(given.tiny, work / "start", tokenizer)
    job = fine_tuning.pack(
        "dpo", work, given.tokenizer, start, [f"dpo.data.length={length}", "dpo.data.answer_budget=null"]
    )
    pairs = training_stream(job).epoch
    calm = {"learning_rate": RATE, "schedule": "constant", "warmup": 0.0}
    train = job.train.model_copy(update={"batch": pairs, "epochs": float(given.epochs), "precision": "bf16", **calm})
    (work / "job.json").write_text(job.model_copy(update={"train": train}).model_dump_json(by_alias=True))


def _history(messages: list[dict[str, Any]], tokenizer: Any, tokens: int) -> list[dict[str, Any]]:
    """As many whole turns of two messages as so many tokens hold."""
    found: list[dict[str, Any]] = []
    for turn in zip(messages[::2], messages[1::2], strict=False):
        tokens -= sum(len(tokenizer.encode(message["content"])) + 8 for message in turn)
        if tokens < 0:
            break
        found += turn
    return found


def _pair(row: dict[str, Any], tokenizer: Any, length: int, history: int) -> dict[str, Any]:
    *before, asked = row["chosen"][:-1]
    asked = {**asked, "content": fine_tuning.cut(tokenizer, asked["content"], (length - history) // 2, end=True)}
    room = length - sum(len(tokenizer.encode(message["content"])) + 8 for message in [*before, asked]) - 8
    answers = {
        side: fine_tuning.cut(tokenizer, row[side][-1]["content"], max(room, 8)) for side in ("chosen", "rejected")
    }
    return {"prompt": [*before, asked], **answers}


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    job = fine_tuning.read_job(given.work)
    if way == "danlu, float32":
        job = job.model_copy(update={"train": job.train.model_copy(update={"precision": "float32"})})
    once = training_stream(job).once()
    lengths = [len(document) for taken in once.examples(0, once.epoch) for document in taken.documents]
    shared = list[int]()
    if is_ours(way):
        if "twice" in way:
            network.least_shared = lambda *_: 1.0  # type: ignore[assignment]
        formed = network.in_its_form(once, job.train, fine_tuning.shape_of(given.tiny), torch.device(given.device))
        documents = (one for taken in formed.examples(0, formed.epoch) for one in taken.documents)
        shared = [one.shared for one in documents if one.shared]
        with tempfile.TemporaryDirectory() as out:
            found = fine_tuning.ours(job, Path(out) / "run")
    else:
        found = theirs(job, given, **WAYS[way])
    seconds = statistics.median(b - a for a, b in pairwise(found["ends"][fine_tuning.WARM - 1 :]))
    shape = fine_tuning.shape_of(given.tiny)
    return {
        "rows": found["rows"],
        "pairs": len(lengths) // 2,
        "tokens_a_pair": 2 * sum(lengths) / len(lengths),
        "prompt_share": found.get("prompt_share"),
        "shared_tokens": sum(shared),
        "pairs_per_second": len(lengths) / 2 / seconds,
        "useful_tokens_per_second": sum(lengths) / seconds,
        "mfu": (training_flops(shape, lengths) - training_flops(shape, shared)) / seconds / PEAK,
        "padding": found.get("padding"),
        "peak_gib": fine_tuning.peak_gib(given.device),
        "first_step_seconds": found["ends"][0] - found["began"],
        "first_loss": found["losses"][0],
        "last_loss": found["losses"][-1],
        "losses": found["losses"],
    }


def theirs(
    job: TrainingJob,
    given: argparse.Namespace,
    pairs: int,
    liger: bool = False,
    dtype: str = "float32",
    autocast: bool = True,
) -> dict[str, Any]:
    """TRL's own collator, loss and loop on the same tokens, given as text."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    on_gpu = given.device == "cuda"
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(str(job.start))
    stream = training_stream(job).once()
    texts, wanted = [], []
    for taken in stream.examples(0, stream.epoch):
        first, second = (document.encoded for document in taken.documents)
        prompt = int((first.weights > 0).argmax())
        answers = [one.tokens[one.weights > 0] for one in (first, second)]
        texts.append(
            {
                "prompt": tokenizer.decode(first.tokens[:prompt].tolist()),
                "chosen": tokenizer.decode(answers[0].tolist()),
                "rejected": tokenizer.decode(answers[1].tolist()),
            }
        )
        wanted.append([prompt, *map(len, answers)])
    model = AutoModelForCausalLM.from_pretrained(
        str(job.start), dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    clock = fine_tuning.clock(given.device)
    with tempfile.TemporaryDirectory() as out:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(
                output_dir=out,
                num_train_epochs=given.epochs,
                per_device_train_batch_size=pairs,
                precompute_ref_log_probs=True,
                precompute_ref_batch_size=2 * pairs,
                gradient_accumulation_steps=-(-len(texts) // pairs),
                learning_rate=job.train.learning_rate,
                beta=BETA,
                lr_scheduler_type="constant",
                adam_beta2=job.train.betas[1],
                weight_decay=0.0,
                max_grad_norm=1.0,
                max_length=stream.length,
                use_liger_kernel=liger and on_gpu,
                gradient_checkpointing=False,
                bf16=autocast,
                use_cpu=not on_gpu,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_num_workers=2 if on_gpu else 0,
                dataloader_persistent_workers=on_gpu,
                optim="adamw_torch_fused",
            ),
            train_dataset=Dataset.from_list(texts),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        rows = [[len(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")] for row in trainer.train_dataset]
        same = sum(a == b for a, b in zip(rows, wanted, strict=True)) / len(rows)
        trainer.train()
    real = sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in rows)
    batches = (rows[at : at + pairs] for at in range(0, len(rows), pairs))
    computed = sum(2 * len(batch) * max(prompt + max(answers) for prompt, *answers in batch) for batch in batches)
    return {
        "began": began,
        "ends": clock.ends,
        "rows": pairs,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "padding": 1 - real / computed,
        "prompt_share": sum(prompt for prompt, _, _ in rows) / real,
        "same_lengths": same,
    }


def main() -> None:
    options = parser(__doc__, WAYS)
    fine_tuning.common_options(options, epochs=5, part="dpo")
    options.add_argument("--history", type=int, default=0, help="tokens of earlier turns")
    given = options.parse_args()
    found = fine_tuning.compare(given, prepare, measure)
    if found:
        print(f"{found[0]['pairs']} pairs of {found[0]['tokens_a_pair']:.0f} tokens a step")
        shares = [row["prompt_share"] for row in found if row.get("prompt_share")]
        if shares:
            print(f"{shares[0]:.1%} of the tokens are prompts that both answers of a pair repeat")
        fine_tuning.show_with_losses(given, found, COLUMNS)


if __name__ == "__main__":
    main()
