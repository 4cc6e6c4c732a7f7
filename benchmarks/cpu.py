"""Training and generation on a CPU: danlu against transformers' Trainer and `generate`.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/cpu.py [--task train|one|sixteen|adapter] [--shape tiny|7M]
        [--rounds 3] [--json FILE] [WAY ...]

The ways run in turn, each in a process of its own, on the same shape, weights and documents of random tokens. `tiny` is
that of recipes/tiny.yaml. Training: AdamW, clipping at 1; tokens that are not padding are counted. Trainer as it comes
takes 8 documents a step, one a row, padded; packed, it gets windows of whole rows and does not keep documents apart, as
danlu does. Generation: greedy answers to prompts of 32 tokens, one at a time or 16 together, or one at a time with an
adapter of rank 8 on all projections, which is not merged (PEFT there). Beside wall time stands
the process's CPU time, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import chain
from danlu.infer.engine import Engine
from danlu.infer.settings import SamplingSettings
from danlu.model.adapt import AdapterShape, attach, load_several, trained
from danlu.model.adapter_folder import Base, loras, read_adapter, write_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.open import open_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.train.settings import TrainSettings
from training import Case, Run

TINY = ModelSettings(family="llama", vocab_size=2_304, hidden_size=160, layers=3, heads=5, mlp_size=448)
SEVEN_MILLION = ModelSettings(family="llama", vocab_size=4_096, hidden_size=256, layers=8, heads=8, mlp_size=688)
CASES = {"tiny": Case(TINY, 256, 50, True), "7M": Case(SEVEN_MILLION, 512, 150, True)}
BATCH, STEPS, WARM = 8, 8, 2
PROMPT, ANSWER = 32, 96
TRAIN = (
    "transformers", "transformers, bf16", "transformers, packed", "transformers, packed, bf16", "danlu", "danlu, bf16",
)  # fmt: skip
GENERATE = ("transformers", "transformers, bf16", "danlu", "danlu, bf16", "danlu, int8", "danlu, int4")
ADAPTER = AdapterShape(rank=8)
COLUMNS = (
    ("tokens/s", "rate", ",.0f"),
    ("× defaults", "to_defaults", ".2f"),
    ("× same dtype", "to_padded", ".2f"),
    ("× best of it", "to_equal", ".2f"),
    ("tokens/CPU s", "cpu_rate", ",.0f"),
    ("× defaults", "cpu_to_defaults", ".2f"),
    ("× same dtype", "cpu_to_padded", ".2f"),
    ("× best of it", "cpu_to_equal", ".2f"),
)
Marks = list[tuple[float, float, int]]
"""(wall seconds, CPU seconds, tokens so far)"""


def mark(tokens: int) -> tuple[float, float, int]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime, tokens


def rates(marks: Marks) -> dict[str, float]:
    """Medians over what lies between marks."""
    pieces = [tuple(b - a for a, b in zip(one, two, strict=True)) for one, two in pairwise(marks)]
    walls, cpus = ([tokens / piece[kind] for *piece, tokens in pieces] for kind in (0, 1))
    return {"rate": sorted(walls)[len(walls) // 2], "cpu_rate": sorted(cpus)[len(cpus) // 2]}


def train_ours(case: Case, dtype: str) -> Marks:
    settings = TrainSettings(batch=BATCH, precision="bf16" if dtype == "bf16" else "float32")
    marks: Marks = []
    with Run(settings, case, STEPS) as run:
        for number, (step, _) in enumerate(run):
            marks.append(mark((marks[-1][2] if marks else 0) + step.tokens))
            if number == STEPS - 1:
                break
    return marks[WARM:]


def train_theirs(case: Case, dtype: str, packed: bool) -> Marks:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    texts = [torch.randint(case.shape.vocab_size, (size,)) for size in case.documents(BATCH * case.length * STEPS)]
    if packed:
        texts = list(torch.cat(texts).split(case.length))[: BATCH * STEPS]
    rows = [{"input_ids": text[: case.length]} for text in texts]
    marks: Marks = []
    seen = 0

    def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        nonlocal seen
        ids = [row["input_ids"] for row in batch]
        seen += sum(map(len, ids))
        pad = torch.nn.utils.rnn.pad_sequence
        labels = pad(ids, batch_first=True, padding_value=-100)
        return {"input_ids": pad(ids, batch_first=True), "attention_mask": (labels >= 0).long(), "labels": labels}

    class Mark(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(mark(seen))

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, max_steps=min(3 * STEPS, len(rows) // BATCH), bf16=dtype == "bf16", report_to="none",
            save_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        model = peer(case.shape)
        Trainer(model, settings, train_dataset=rows, data_collator=collate, callbacks=[Mark()]).train()
    return marks[WARM:]


def peer(shape: ModelSettings) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.mlp_size,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def generate(case: Case, way: str, streams: int, adapted: bool) -> Marks:
    decoder = Decoder.empty(case.shape)
    initialise(decoder, 0)
    torch.manual_seed(0)
    prompts = torch.randint(1, case.shape.vocab_size, (streams, PROMPT))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "model"
        save_decoder(decoder, folder)
        adapter = with_adapter(decoder, folder) if adapted else None
        answer = answers_of(folder, way, prompts, adapter)
    answer()
    marks = [mark(0)]
    for number in range(5):
        answer()
        marks.append(mark((number + 1) * streams * ANSWER))
    return marks


def with_adapter(decoder: Decoder, folder: Path) -> Path:
    """A folder with an adapter over the decoder in `folder`, whose B is not 0."""
    attach(decoder, ADAPTER, 0)
    for _, _, adapter in trained(decoder):
        for pair in adapter.of():
            pair.b.data.normal_(0.0, 0.02)
    out = folder.with_name("adapter")
    out.mkdir()
    write_adapter(decoder, out, ADAPTER, Base.of(folder))
    return out


def answers_of(folder: Path, way: str, prompts: torch.Tensor, adapter: Path | None) -> Any:
    kind = dtype_of(way)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    if chain.is_ours(way):
        small = {"quantisation": kind} if kind in ("int8", "int4") else {}
        decoder = open_decoder(folder, dtype, **small)  # type: ignore[arg-type]
        if adapter is not None:
            load_several(decoder, [loras(decoder, read_adapter(adapter), Base.of(folder))], dtype)
        engine = Engine(decoder, **({} if adapter is None else {"adapters": 1, "first": 0}))
        return lambda: engine.generate(prompts.tolist(), SamplingSettings(max_tokens=ANSWER))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).to(dtype).eval()
    model.generation_config.eos_token_id = None
    mask = torch.ones_like(prompts)
    return lambda: model.generate(prompts, attention_mask=mask, max_new_tokens=ANSWER, do_sample=False, pad_token_id=0)


def dtype_of(way: str) -> str:
    last = way.rpartition(", ")[2]
    return last if last in ("bf16", "int8", "int4") else "float32"


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    case = CASES[given.shape]
    if given.task != "train":
        return rates(generate(case, way, 16 if given.task == "sixteen" else 1, given.task == "adapter"))
    if chain.is_ours(way):
        return rates(train_ours(case, dtype_of(way)))
    return rates(train_theirs(case, dtype_of(way), "packed" in way))


def compared(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the ratios to the peer's defaults, to the same in the row's number format, and to the peer's best
    way in that format.
    """
    for row in found:
        for kind in ("", "cpu_"):
            peers = {other["way"]: other[f"{kind}rate"] for other in found if not chain.is_ours(other["way"])}
            equal = [rate for way, rate in peers.items() if dtype_of(way) == dtype_of(row["way"])]
            if "transformers" in peers:
                row[f"{kind}to_defaults"] = row[f"{kind}rate"] / peers["transformers"]
            padded = "transformers" if dtype_of(row["way"]) == "float32" else f"transformers, {dtype_of(row['way'])}"
            if padded in peers:
                row[f"{kind}to_padded"] = row[f"{kind}rate"] / peers[padded]
            if equal:
                row[f"{kind}to_equal"] = row[f"{kind}rate"] / max(equal)
    return found


def main() -> None:
    options = chain.parser(__doc__, [])
    options.add_argument("--task", choices=("train", "one", "sixteen", "adapter"), default="train")
    options.add_argument("--shape", choices=tuple(CASES), default="tiny")
    options.set_defaults(device="cpu")
    given = options.parse_args()
    given.ways = given.ways or list(TRAIN if given.task == "train" else GENERATE)
    chain.show(given, compared(chain.run(given, measure)), COLUMNS, task=given.task, shape=given.shape)


if __name__ == "__main__":
    main()
