"""What weights in fewer bits cost and give: bits per byte, agreement, speed and memory, of one model in each form.

    python benchmarks/quantised.py MODEL TEXT.jsonl [--device cuda] [--texts 100] [--json FILE]
    python benchmarks/quantised.py --shape 7B|13B|tiny [--forms bf16 int4] [--device cuda] [--json FILE]

MODEL is a folder that `danlu.load` opens, TEXT.jsonl documents (`text`) that it was not trained on. Each form is opened
in a process of its own. Agreement is with the first form on the same texts: KL in nats and the share of equal likeliest
tokens. Speed: greedy answers of 128 tokens, one stream and then 16. With --shape the weights are random, made
on the device, and only speed and memory are told. The floor is the time of reading the weights once a token, at the
rate of a copy measured here; GiB is the most that was taken of the GPU, with a cache for those streams.
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
from danlu.infer.engine import Engine
from danlu.infer.model import Model
from danlu.infer.settings import SamplingSettings
from danlu.model.decoder import Decoder
from danlu.model.integers import quantise_ends, to_int4, to_int8
from lora import THIRTEEN
from random_weights import random_decoder
from training import SEVEN, TINY

FORMS = ("float32", "bf16", "int8", "int4")
SHAPES = {"7B": SEVEN, "13B": THIRTEEN, "tiny": TINY}
WINDOW, PROMPT, ANSWER = 512, 16, 128
AGREEMENT = {"bits_per_byte": ".4f", "kl": ".4f", "top_1": ".3f"}
KEPT = 4_096  # predictions whose whole distributions are compared


def opened(given: argparse.Namespace, form: str) -> Model:
    if form in ("float32", "bf16"):
        return danlu.load(given.model, given.device, form)
    return danlu.load(given.model, given.device, "float32" if given.device == "cpu" else "bf16", quantize=form)


def made(given: argparse.Namespace, form: str) -> Decoder:
    """As `danlu.load` would open a folder of the shape in that form."""
    dtype = torch.float32 if form == "float32" or given.device == "cpu" else torch.bfloat16
    dtype = torch.bfloat16 if form == "bf16" else dtype
    decoder = random_decoder(SHAPES[given.shape], dtype, given.device, {"int8": to_int8, "int4": to_int4}.get(form))
    if form in ("int8", "int4"):
        quantise_ends(decoder)
    return decoder.requires_grad_(False)


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


def speed(engine: Engine, streams: int) -> float:
    """Tokens a second, the median of three rounds after one that compiles and captures."""
    generator = torch.Generator().manual_seed(0)
    entries = engine.decoder.settings.vocab_size
    prompts = torch.randint(entries, (streams, PROMPT), generator=generator).tolist()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        engine.generate(prompts, SamplingSettings(max_tokens=ANSWER, temperature=0))
        seconds.append(time.perf_counter() - start)
    return streams * ANSWER / sorted(seconds[1:])[1]


def copy_rate(device: str) -> float:
    """Bytes a second read and written by a large copy."""
    source = torch.empty(2**31 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source).copy_(source)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * source.numel() / (time.perf_counter() - start))
    return best


def measure(given: argparse.Namespace, form: str) -> dict[str, Any]:
    if given.shape:
        engine, agreement = Engine(made(given, form)), dict[str, float]()
    else:
        model = opened(given, form)
        engine, agreement = model.engine, agreed(model, given)
    tensors = (*engine.decoder.parameters(), *engine.decoder.buffers())
    held = sum({id(one): one.numel() * one.element_size() for one in tensors}.values())
    found = {"form": form, "megabytes": held / 1e6, **agreement}
    found |= {"one_stream": speed(engine, 1), "sixteen": speed(engine, 16)}
    if given.device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return found | {"floor": copy_rate(given.device) / held}


def agreed(model: Model, given: argparse.Namespace) -> dict[str, float]:
    scores = model.scores(texts(given))
    own, path = distributions(model, given), given.reference
    if not path.exists():
        torch.save(own, path)
    whole = torch.load(path, weights_only=True)
    return {
        "bits_per_byte": sum(score.nats for score in scores) / math.log(2) / sum(score.bytes for score in scores),
        "kl": float((whole.exp() * (whole - own)).sum(-1).mean()),
        "top_1": float((whole.argmax(-1) == own.argmax(-1)).float().mean()),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path, nargs="?")
    options.add_argument("text", type=Path, nargs="?")
    options.add_argument("--shape", choices=list(SHAPES), help="random weights of this shape")
    options.add_argument("--forms", nargs="+", choices=FORMS)
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
        for form in given.forms or FORMS[given.device != "cpu" and bool(given.shape) :]:
            same = [*sys.argv, "--one", form, "--reference", str(Path(folder) / "whole.pt")]
            done = subprocess.run([sys.executable, *same], capture_output=True, text=True)
            if done.returncode:
                print(f"{form}: {done.stderr.strip().splitlines()[-1]}")
                continue
            found.append(json.loads(done.stdout.splitlines()[-1]))
    titles = {
        "MB": 10,
        "GiB": 8,
        "bits/byte": 11,
        "KL": 9,
        "top-1": 8,
        "one, tok/s": 12,
        "of floor": 10,
        "16, tok/s": 11,
    }
    print(" " * 8 + "".join(f"{title:>{width}}" for title, width in titles.items()))
    for row in found:
        told = [f"{row[key]:{form}}" if key in row else "-" for key, form in AGREEMENT.items()]
        gib = f"{row['peak_gib']:.2f}" if "peak_gib" in row else "-"
        print(
            f"{row['form']:8}{row['megabytes']:10,.2f}{gib:>8}{told[0]:>11}{told[1]:>9}{told[2]:>8}"
            f"{row['one_stream']:12,.0f}{row['one_stream'] / row['floor']:10.0%}{row['sixteen']:11,.0f}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
