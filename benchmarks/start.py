"""From the command to the first step of pretraining the 1B shape on 1 GB of packed data: danlu against transformers.

    python benchmarks/start.py --tokenizer FOLDER [--gigabytes 1] [--json FILE] [WAY ...]

Each way runs its command twice with compile caches of its own: empty (cold), then full (warm); a third run of ours
under cProfile says where the seconds go. danlu's command is `danlu pretrain RECIPE` with everything packed; the peer is
a script of transformers' Trainer with torch_compile on as many tokens, mapped from a file. A step is 96 windows.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from chain import Column, is_ours, parser, run, show
from danlu.tokens.shards import TokenSet
from fine_tuning import RECIPES, TINY, length_of
from packed import synthetic_set
from training import SHAPE

WAYS = {
    "danlu": {},
    "transformers + compile": {"compile": True},
    "transformers + compile, Liger": {"compile": True, "liger": True},
    "transformers": {},
}
COLUMNS: list[Column] = [
    ("cold s", "cold", ".1f"),
    ("ratio", "cold", "x"),
    ("warm s", "warm", ".1f"),
    ("ratio", "warm", "x"),
]
PARTS = {
    "imports": ("_bootstrap>", "_find_and_load"),
    "recipe read and planned": ("recipe/build.py", "build_stages"),
    "tokenizer": ("tokens/tokenizer.py", "load"),
    "token sets opened": ("tokens/pack.py", "open_stream"),
    "checksums of shards": ("ledger/files.py", "sha256_file"),
    "random weights": ("model/parts.py", "initialise"),
    "network built, moved": ("train/network.py", "build"),
    "micro-batch chosen": ("train/memory.py", "fitting_rows"),
    "data check": ("train/data_check.py", "check_data"),
    "first step": ("train/step.py", "take"),
    "checkpoint": ("train/checkpoint.py", "write_checkpoint"),
}
PEER = """
import sys, time, json, numpy as np, torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments
given = json.loads(sys.argv[1])
if given["liger"]:
    from liger_kernel.transformers import apply_liger_kernel_to_qwen2
    apply_liger_kernel_to_qwen2()
class Rows(torch.utils.data.Dataset):
    tokens = np.memmap(given["tokens"], np.uint32, "r")
    def __len__(self): return len(self.tokens) // given["length"]
    def __getitem__(self, at):
        ids = torch.from_numpy(self.tokens[at * given["length"] : (at + 1) * given["length"]].astype(np.int64))
        return {"input_ids": ids, "labels": ids}
class First(TrainerCallback):
    def on_step_end(self, *_, **__):
        if torch.cuda.is_available(): torch.cuda.synchronize()
        print("FIRST STEP", flush=True)
with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
    model = Qwen2ForCausalLM(Qwen2Config(**given["shape"]))
cuda = torch.cuda.is_available()
arguments = TrainingArguments(output_dir=given["out"], max_steps=2, per_device_train_batch_size=given["rows"],
    gradient_accumulation_steps=given["batch"] // given["rows"], bf16=cuda, use_cpu=not cuda, report_to=[],
    torch_compile=given["compile"] and cuda, save_strategy="no", disable_tqdm=True, learning_rate=1e-4)
Trainer(model, arguments, train_dataset=Rows(), callbacks=[First()]).train()
"""


def prepare(given: argparse.Namespace, work: Path) -> None:
    """A run whose packing is done, and then its token set replaced by a large one of random tokens."""
    (work / "rows").mkdir()
    (work / "rows" / "rows.jsonl").write_text(
        "".join(json.dumps({"text": f"{n} 绿豆 beans. " * 40}) + "\n" for n in range(64))
    )
    shape = TINY if given.tiny else SHAPE
    content = yaml.safe_load((RECIPES / "pretrain.yaml").read_text())
    content |= {"out": str(work / "run"), "data": str(work / "rows")}
    content["tokenizer"]["path"] = str(given.tokenizer)
    content["model"] |= shape.model_dump(include={"hidden_size", "layers", "heads", "kv_heads", "mlp_size"})
    content["pretrain"]["data"] |= {
        "sources": [{"name": "pt", "path": "."}],
        "length": length_of(given.tiny),
        "held_out": 0,
    }
    content["pretrain"]["train"] |= {"batch": batch(given), "steps": 2, "save": {"weights_only": True}}
    if given.device == "cpu":
        content["pretrain"]["train"]["precision"] = "float32"
    (work / "recipe.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    subprocess.run([*danlu(), "pack", str(work / "recipe.yaml")], check=True, stdout=subprocess.DEVNULL)
    index = work / "run" / "pack" / "pretrain" / "train" / "pt" / "manifest.json"
    old = json.loads(index.read_text())
    small = TokenSet.open(index.parent)
    tokens, names = int(given.gigabytes * 1e9) // 4, {key: small.manifest[key] for key in ("tokenizer", "template")}
    made = synthetic_set(work / "set", tokens, spelling=small.spelling, **names)
    old |= {key: made[key] for key in ("fingerprint", "tokens", "examples")}
    index.write_text(json.dumps(old | {"set": os.path.relpath(work / "set", index.parent)}))
    with (work / "tokens.bin").open("wb") as file:
        random = np.random.default_rng(0)
        for _ in range(max(tokens >> 24, 1)):
            file.write(random.integers(0, 150_000, min(tokens, 1 << 24), np.uint32).tobytes())


def batch(given: argparse.Namespace) -> int:
    return 4 if given.tiny else 96


def danlu() -> list[str]:
    return [sys.executable, "-c", "from danlu.cli import main; main()"]


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as caches:
        places = {"TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor", "TRITON_CACHE_DIR": f"{caches}/triton"}
        environment = {**os.environ, **places, "PYTHONUNBUFFERED": "1"}
        first = _ours if is_ours(way) else _theirs
        for state in ("cold", "warm"):
            found[state] = first(given, environment, **WAYS[way])
        if is_ours(way):
            found["parts"] = _profiled(given, environment)
    return found


def _ours(given: argparse.Namespace, environment: dict[str, str]) -> float:
    """Seconds until the first row of metrics is written; the run is then ended."""
    metrics = given.work / "run" / "pretrain" / "metrics.jsonl"
    subprocess.run(["rm", "-rf", str(metrics.parent)], check=True)
    began = time.perf_counter()
    with (given.work / "told.txt").open("w") as told:
        command = subprocess.Popen(
            [*danlu(), "pretrain", str(given.work / "recipe.yaml")], env=environment, stdout=told, stderr=told
        )
    while not (metrics.is_file() and '"loss"' in metrics.read_text()):
        if command.poll() not in (None, 0):
            raise SystemExit((given.work / "told.txt").read_text()[-2000:])
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    command.kill()
    command.wait()
    return seconds


def _profiled(given: argparse.Namespace, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of the parts of a whole run of two steps under cProfile, its caches full; parts may hold one another."""
    subprocess.run(["rm", "-rf", str(given.work / "run" / "pretrain")], check=True)
    code = "import sys, cProfile; from pathlib import Path; p = cProfile.Profile(); p.enable()\n"
    profile, recipe = given.work / "profile", str(given.work / "recipe.yaml")
    code += "from danlu.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += f"finally: p.disable(); p.dump_stats({str(profile)!r})"
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, "pretrain", recipe], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    parts = {"whole command, two steps": time.perf_counter() - began}
    stats = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    for part, (file, function) in PARTS.items():
        times = [
            cumulative
            for (path, _, name), (_, _, _, cumulative, _) in stats.items()
            if file in path and name == function
        ]
        parts[part] = max(times, default=0.0)
    return parts


def _theirs(
    given: argparse.Namespace, environment: dict[str, str], compile: bool = False, liger: bool = False
) -> float:
    shape = TINY if given.tiny else SHAPE
    told = {
        "compile": compile,
        "liger": liger and given.device == "cuda",
        "tokens": str(given.work / "tokens.bin"),
        "length": length_of(given.tiny),
        "out": str(given.work / "peer"),
        "batch": batch(given),
        "rows": 2 if given.tiny else 24,
        "shape": {
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.mlp_size,
            "tie_word_embeddings": True,
        },
    }
    began = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-c", PEER, json.dumps(told)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdout is not None
    reached = any("FIRST STEP" in line for line in command.stdout)
    seconds = time.perf_counter() - began
    command.kill()
    command.wait()
    if not reached:
        raise SystemExit("the peer ended before its first step")
    return seconds


def main() -> None:
    options = parser(__doc__, WAYS)
    options.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer's folder (Qwen2.5)")
    options.add_argument("--gigabytes", type=float, default=1.0, help="of packed tokens")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not given.one:
            given.work = Path(folder)
            given.tokenizer = given.tokenizer.resolve()
            prepare(given, given.work)
        found = run(given, measure)
    show(given, found, COLUMNS)
    for row in found:
        for part, seconds in row.get("parts", {}).items():
            print(f"  {part:28}{seconds:7.2f} s")


if __name__ == "__main__":
    main()
