"""Held-out bits per byte against time: a 104M-parameter decoder on Chinese and English text, danlu and transformers.

    python benchmarks/time_to_loss.py --packed OUT --pack DATA      once; DATA holds zh/ and en/ *.jsonl.zst
    python benchmarks/time_to_loss.py --packed OUT [--budget 120] [--set KEY=VALUE ...] [--json FILE] [WAY ...]

Both learn the same tokens for `--budget` seconds, measured from when training begins, its compilation with it and
evaluations left out; how many steps fit is found by a few steps beforehand. danlu runs time_to_loss.yaml (`--set`
changes it); transformers' Trainer runs mini_qwen's settings (rate 1e-4, warmup 10%, cosine to 0, no decay, clip 1,
bf16, windows of running text), and others where its way says so. Both are measured on the same targets of the same
held-out documents, kept apart from one another.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch
import zstandard

from chain import Column, is_ours, parser, run, show
from danlu.config import check
from danlu.ledger.metrics import read_metrics
from danlu.model.settings import ModelSettings, parameters
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob, run_job, training_stream
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe, load_recipe
from danlu.tokens.batch import Batch
from danlu.tokens.pack import open_stream
from danlu.tokens.stream import Stream
from danlu.train import loop

RECIPE = Path(__file__).with_suffix(".yaml")
WAYS: dict[str, dict[str, Any]] = {
    "danlu": {},
    "Trainer, mini_qwen's settings": {"batch": 1152, "rate": 1e-4, "warmup": 0.1},
    "Trainer, mini_qwen's, batch 128": {"batch": 128, "rate": 1e-4, "warmup": 0.1},
    "Trainer, tuned": {"batch": 128, "rate": 1e-3, "warmup": 0.05, "decay": 0.1},
}
COLUMNS: list[Column] = [
    ("steps", "steps", ".0f"),
    ("tokens/s", "tokens_per_second", ",.0f"),
    ("ratio", "tokens_per_second", "x"),
    ("seconds", "seconds", ".0f"),
    ("zh bpb", "zh", ".4f"),
    ("en bpb", "en", ".4f"),
    ("both", "all", ".4f"),
    ("best both", "best", ".4f"),
    ("GiB", "peak_gib", ".1f"),
]
TRIAL = 12
"""Steps whose speed says how many fit into the budget; the first one counts 10 s at most, as the second run finds
everything compiled."""


def pack(given: argparse.Namespace) -> None:
    """Packs an even share of every file, half the bytes of each language, into OUT/packed.tar.zst."""
    out = given.packed
    rows = out / "rows"
    rows.mkdir(parents=True)
    for language in ("zh", "en"):
        files = sorted((given.pack / language).glob("*.jsonl.zst"))
        with (rows / f"{language}.jsonl").open("w", encoding="utf-8") as handle:
            for file in files:
                for text in _share(file, given.megabytes * 1e6 / 2 / len(files)):
                    handle.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    run_recipe(recipe_of(out, [f"data={rows}"]), until="pack")
    shutil.rmtree(rows)
    with (
        (out / "packed.tar.zst").open("wb") as raw,
        zstandard.ZstdCompressor(level=9, threads=-1).stream_writer(raw) as to,
        tarfile.open(fileobj=to, mode="w|") as tar,
    ):
        for name in ("run", "token-sets"):
            tar.add(out / name, name)
    print(f"{(out / 'packed.tar.zst').stat().st_size / 2**20:.1f} MiB; other folders in {out} may go")


def unpack(packed: Path, folder: Path) -> None:
    """Puts what `pack` left in `packed` into a folder."""
    with (
        (packed / "packed.tar.zst").open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        tar.extractall(folder, filter="data")


def _share(file: Path, most: float) -> Iterator[str]:
    with file.open("rb") as raw:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), "utf-8"):
            text = json.loads(line)["text"]
            most -= len(text.encode())
            if most < 0:
                return
            yield text


def recipe_of(folder: Path, more: list[str]) -> Recipe:
    return load_recipe(RECIPE, [f"out={folder / 'run'}", f"token_sets={folder / 'token-sets'}", *more])


def job_of(given: argparse.Namespace, **train: Any) -> TrainingJob:
    """The job on the packed data with settings of training changed."""
    changes = [*(given.set or [])]
    if given.tiny:
        changes += [
            f"model.{key}={value}" for key, value in {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 2}.items()
        ]
        changes += ["model.mlp_size=128", "pretrain.train.batch=8", "pretrain.train.precision=float32"]
    (found,) = (one for one in build_stages(recipe_of(given.work, changes)) if one.name == "pretrain")
    job = check(TrainingJob, found.settings)
    return job.model_copy(update={"train": job.train.model_copy(update=train)})


def held_out(job: TrainingJob, share: float) -> dict[str, Stream]:
    streams = {}
    for source in job.data.sources:
        data = job.data.model_copy(update={"sources": [source]})
        streams[str(source.name)] = open_stream(job.packed, data, "pretrain", split="held_out", epochs=share)
    return streams


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    if given.device == "cuda":
        torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as out:
        found = (ours if is_ours(way) else theirs)(given, Path(out), **WAYS[way])
    curve = found["curve"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if given.device == "cuda" else None
    best = min(point["all"] for point in curve)
    return {**found, **curve[-1], "best": best, "peak_gib": peak}


class _Clocked(loop.Run):
    """The loop, with a clock that stands still while it evaluates."""

    began: ClassVar[float] = 0.0
    evaluating: ClassVar[float] = 0.0
    ends: ClassVar[list[float]] = []
    evaluated: ClassVar[list[float]] = []

    def _take(self, *given: Any) -> bool:
        stopped = super()._take(*given)
        self.ends.append(_Clocked.now())
        return stopped

    def _evaluate(self) -> None:
        self.evaluated.append(_Clocked.now())
        begin = time.perf_counter()
        super()._evaluate()
        _Clocked.evaluating += time.perf_counter() - begin

    @classmethod
    def now(cls) -> float:
        return time.perf_counter() - cls.began - cls.evaluating

    @classmethod
    def restart(cls) -> None:
        cls.began, cls.evaluating = time.perf_counter(), 0.0
        cls.ends.clear()
        cls.evaluated.clear()


def ours(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    loop.Run = _Clocked  # type: ignore[misc]
    _Clocked.restart()
    run_job(job_of(given, steps=TRIAL, evaluate_every=0), out / "trial")
    first, each = min(_Clocked.ends[0], 10.0), median(b - a for a, b in pairwise(_Clocked.ends[2:]))
    if given.device == "cuda":
        torch.cuda.empty_cache()
    steps = max(int((given.budget - first) / each), 8)
    job = job_of(given, steps=steps, evaluate_every=max(steps // given.points, 1))
    _Clocked.restart()
    run_job(job, out / "run")
    by_step: dict[int, dict[str, float]] = {}
    for row in read_metrics(out / "run" / "metrics.jsonl"):
        if "source" in row:
            by_step.setdefault(row["step"], {})[row["source"]] = row["held_out_bits_per_byte"]
    curve = [{"seconds": at, **point} for at, point in zip(_Clocked.evaluated, by_step.values(), strict=False)]
    seen = [row["tokens"] for row in read_metrics(out / "run" / "metrics.jsonl") if "loss" in row]
    rate = (seen[-1] - seen[0]) / (len(seen) - 1) / each
    return {"steps": steps, "tokens_per_second": rate, "curve": curve, "settings": job.train.model_dump(mode="json")}


def theirs(
    given: argparse.Namespace, out: Path, batch: int, rate: float, warmup: float, decay: float = 0.0
) -> dict[str, Any]:
    """transformers' Trainer on windows of the running text."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainerCallback, TrainingArguments

    job, on_gpu = job_of(given), given.device == "cuda"
    batch = 8 if given.tiny else batch
    rows = min(batch, 64)
    shape, length = job.model or ModelSettings(), job.data.length
    assert parameters(shape)
    text = np.concatenate(
        [one.shard(at).tokens for one in training_stream(job).sets for at in range(len(one.shards))]
    ).astype(np.int64)
    windows = [{"input_ids": window, "labels": window} for window in torch.from_numpy(text).split(length)[:-1]]
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        intermediate_size=shape.mlp_size,
        tie_word_embeddings=shape.tie_embeddings,
        attn_implementation="sdpa",
        use_cache=False,
    )
    streams, curve, ends = held_out(job, 1.0), [], []
    clock = {"began": 0.0, "out": 0.0}

    class Clock(TrainerCallback):
        every = 0

        def on_step_end(self, arguments: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            ends.append(begin - clock["began"] - clock["out"])
            if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
                curve.append({"seconds": ends[-1], **_bits_per_byte(model, streams, given.device)})
                clock["out"] += time.perf_counter() - begin

    def train(steps: int, every: int) -> None:
        torch.manual_seed(0)
        with torch.device(given.device):
            model = Qwen3ForCausalLM(config)
        arguments = TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=batch // rows,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            warmup_steps=round(warmup * steps),
            weight_decay=decay,
            adam_beta2=0.999 if not decay else 0.95,
            max_grad_norm=1.0,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            torch_compile=on_gpu,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=4 if on_gpu else 0,
            dataloader_drop_last=True,  # a last, smaller batch would be compiled for once more
        )
        callback = Clock()
        callback.every = every
        ends.clear()
        clock.update(began=time.perf_counter(), out=0.0)
        Trainer(model, arguments, train_dataset=windows, callbacks=[callback]).train()

    train(TRIAL, 0)
    first, each = min(ends[0], 10.0), median(b - a for a, b in pairwise(ends[2:]))
    if on_gpu:
        torch.cuda.empty_cache()
    steps = max(int((given.budget - first) / each), 8)
    train(steps, max(steps // given.points, 1))
    return {"steps": steps, "tokens_per_second": batch * length / each, "curve": curve}


@torch.no_grad()
def _bits_per_byte(model: Any, streams: Mapping[str, Stream], device: str) -> dict[str, float]:
    """By source and over all, on the targets that danlu's own evaluation counts; documents by their positions."""
    inner, found, sums = getattr(model, "_orig_mod", model), {}, [0.0, 0.0]
    inner.eval()
    for name, stream in streams.items():
        nll, size = 0.0, 0
        for step in stream.steps(0, 32, 0, 1, 16):
            size += step.text_bytes
            nll += sum(_text_nll(inner, micro.torch(device), device) for micro in step.micro)
        found[name] = nll / math.log(2) / size
        sums = [sums[0] + nll, sums[1] + size]
    inner.train()
    return {**found, "all": sums[0] / math.log(2) / sums[1]}


def _text_nll(model: Any, batch: Batch[torch.Tensor], device: str) -> float:
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        hidden = model.model(input_ids=batch.tokens, position_ids=batch.positions).last_hidden_state.flatten(0, 1)
        logits = model.lm_head(hidden[batch.targets - 1])
    labels = batch.tokens.flatten()[batch.targets]
    nll = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return float((nll * batch.target_text).sum())


def crossings(found: list[dict[str, Any]]) -> Iterator[str]:
    """When ours reached what each peer ended with."""
    for mine in (row for row in found if is_ours(row["way"])):
        for peer in (row for row in found if not is_ours(row["way"])):
            for key in ("zh", "en", "all"):
                at = next((point["seconds"] for point in mine["curve"] if point[key] <= peer[key]), None)
                when = f"after {at:.1f} s, {at / peer['seconds']:.3f} of its time" if at else "not reached"
                goal = f"its last {key} bpb {peer[key]:.4f} in {peer['seconds']:.0f} s"
                yield f"{peer['way']}: {goal}; {mine['way']}: {when}"


def main() -> None:
    options = parser(__doc__, WAYS)
    options.add_argument("--packed", type=Path, required=True, help="folder of packed.tar.zst")
    options.add_argument("--pack", type=Path, help="make it from the text in this folder, and nothing else")
    options.add_argument("--megabytes", type=float, default=80, help="of text, half of it in each language")
    options.add_argument("--budget", type=float, default=120.0, help="seconds of training")
    options.add_argument("--points", type=int, default=20, help="evaluations on the way")
    options.add_argument("--set", action="append", help="a setting of time_to_loss.yaml, KEY=VALUE")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.pack:
        pack(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        if not given.one:
            given.work = Path(folder)
            unpack(given.packed, given.work)
        found = run(given, measure)
    show(given, found, COLUMNS)
    print(*crossings(found), sep="\n")


if __name__ == "__main__":
    main()
