"""What weights in fewer bits cost and give: bits per byte, agreement, speed and memory, of one model in each form.

    python benchmarks/quantised.py MODEL TEXT.jsonl [--device cuda] [--texts 100] [--json FILE]

MODEL is a folder that `danlu.load` opens, TEXT.jsonl documents (`text`) that it was not trained on. Each form is opened
in a process of its own. Agreement is with float32 (bf16 on a GPU) on the same texts: KL in nats and the share of equal
likeliest tokens. Speed: one stream of 128 tokens, then 16.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.infer.cache import Causal
from danlu.infer.model import Model
from danlu.infer.settings import SamplingSettings

FORMS = ("float32", "bf16", "int8", "int4")
WINDOW, PROMPT, ANSWER = 512, 16, 128
KEPT = 4_096  # predictions whose whole distributions are compared


def opened(given: argparse.Namespace, form: str) -> Model:
    if form in ("float32", "bf16"):
        return danlu.load(given.model, given.device, form)
    return danlu.load(given.model, given.device, "float32" if given.device == "cpu" else "bf16", quantize=form)


def texts(given: argparse.Namespace) -> list[str]:
    with given.text.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, given.texts)]


@torch.inference_mode()
def distributions(model: Model, given: argparse.Namespace) -> torch.Tensor:
    """Log-probabilities [N, V] of the next token after each of the first tokens of the texts."""
    found: list[torch.Tensor] = []
    for text in texts(given):
        ids = torch.tensor([model.tokenizer.encode(text)[:WINDOW]], device=given.device)
        if ids.numel():
            hidden = model.decoder(ids, torch.arange(ids.shape[1], device=given.device)[None], Causal())
            found.append(model.decoder.head.logits(hidden)[0].float().log_softmax(-1).cpu())
        if sum(map(len, found)) >= KEPT:
            break
    return torch.cat(found)[:KEPT]


def speed(model: Model, given: argparse.Namespace, streams: int) -> float:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.tokenizer.vocab_size, (streams, PROMPT), generator=generator).tolist()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        model.engine.generate(prompts, SamplingSettings(max_tokens=ANSWER))
        seconds.append(time.perf_counter() - start)
    return streams * ANSWER / sorted(seconds[1:])[1]


def measure(given: argparse.Namespace, form: str) -> dict[str, Any]:
    model = opened(given, form)
    weights = {id(one): one for one in (*model.decoder.parameters(), *model.decoder.buffers())}.values()
    scores = model.scores(texts(given))
    own, path = distributions(model, given), given.reference
    if not path.exists():
        torch.save(own, path)
    whole = torch.load(path, weights_only=True)
    return {
        "form": form,
        "megabytes": sum(one.numel() * one.element_size() for one in weights) / 1e6,
        "bits_per_byte": sum(score.nats for score in scores) / math.log(2) / sum(score.bytes for score in scores),
        "kl": float((whole.exp() * (whole - own)).sum(-1).mean()),
        "top_1": float((whole.argmax(-1) == own.argmax(-1)).float().mean()),
        "one_stream": speed(model, given, 1),
        "sixteen": speed(model, given, 16),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path)
    options.add_argument("text", type=Path)
    options.add_argument("--device", default="cpu")
    options.add_argument("--texts", type=int, default=100)
    options.add_argument("--json", type=Path)
    options.add_argument("--one", help=argparse.SUPPRESS)
    options.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given, given.one)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS[given.device != "cpu" :]:
            same = [*sys.argv, "--one", form, "--reference", str(Path(folder) / "whole.pt")]
            done = subprocess.run([sys.executable, *same], capture_output=True, text=True)
            if done.returncode:
                print(f"{form}: {done.stderr.strip().splitlines()[-1]}")
                continue
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':8}{'MB':>10}{'bits/byte':>11}{'KL':>9}{'top-1':>8}{'one, tok/s':>12}{'16, tok/s':>11}")
    for row in found:
        print(
            f"{row['form']:8}{row['megabytes']:10,.2f}{row['bits_per_byte']:11.4f}{row['kl']:9.4f}{row['top_1']:8.3f}"
            f"{row['one_stream']:12,.0f}{row['sixteen']:11,.0f}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
