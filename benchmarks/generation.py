"""Generation with the mini_qwen 1B shape on a GPU: the engine against transformers' `generate`.

    python benchmarks/generation.py [--json FILE] [--tiny] [WAY ...]

Greedy answers of fixed lengths to prompts of random tokens: one stream, 64 streams, and 256 prompts and answers of
mixed lengths. transformers runs eagerly, and compiled with a static cache where a batch has one length; both have bf16
weights of the same shape. The floor of one stream is the time of reading the weights once a token, at the rate of a
copy measured here. Tokens asked for are counted, not padding; the first round of each is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from danlu.infer.engine import Engine
from danlu.infer.settings import SamplingSettings
from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings, parameters

ONE_BILLION = {
    "vocab_size": 151_936, "hidden_size": 1_024, "layers": 48, "heads": 16, "kv_heads": 4, "mlp_size": 4_864,
}  # fmt: skip
TINY = {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 96}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Work = list[tuple[list[int], int]]
"""Prompts, and how many tokens each is to be answered with."""


def wait() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_rate() -> float:
    """Bytes a second read and written by a large copy."""
    source = torch.empty(2**31 if DEVICE == "cuda" else 2**26, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    start = wait()
    for _ in range(5):
        target.copy_(source)
    return 10 * source.numel() / (wait() - start)


def work(count: int, prompt: tuple[int, int], answer: tuple[int, int], vocabulary: int) -> Work:
    generator = torch.Generator().manual_seed(0)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    return [
        (torch.randint(vocabulary, (between(*prompt),), generator=generator).tolist(), between(*answer))
        for _ in range(count)
    ]


def ours(shape: ModelSettings) -> Callable[[Work], None]:
    decoder = Decoder.empty(shape, torch.bfloat16, DEVICE)
    initialise(decoder, 0)
    engine = Engine(decoder, max_batch=256, max_tokens_in_cache=2**18)

    def answer(work: Work) -> None:
        ordered = sorted(work, key=lambda pair: -len(pair[0]))
        engine.finish(
            [engine.submit(prompt, SamplingSettings(max_tokens=new, temperature=0)) for prompt, new in ordered]
        )

    return answer


def theirs(shape: ModelSettings, compiled: bool, batch: int = 64) -> Callable[[Work], None]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = Qwen2ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    options = {"cache_implementation": "static"} if compiled else {}

    @torch.no_grad()
    def answer(work: Work) -> None:
        ordered = sorted(work, key=lambda pair: -len(pair[0]))
        for first in range(0, len(ordered), batch):
            part = ordered[first : first + batch]
            width, new = max(len(prompt) for prompt, _ in part), max(new for _, new in part)
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in part], device=DEVICE)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in part], device=DEVICE)
            model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, **options)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("ways", nargs="*", default=["danlu", "transformers", "transformers, static and compiled"])
    arguments = parser.parse_args()
    shape = ModelSettings.model_validate(TINY if arguments.tiny else ONE_BILLION)
    few = 8 if arguments.tiny else 1
    works = {
        "one stream": work(1, (128, 128), (256 // few, 256 // few), shape.vocab_size),
        "64 streams": work(64, (128, 128), (128 // few, 128 // few), shape.vocab_size),
        "256 mixed": work(256, (16, 512 // few), (16 // few, 256 // few), shape.vocab_size),
    }
    rate = copy_rate()
    floor = rate / (2 * parameters(shape))
    print(f"copies at {rate / 1e12:.2f} TB/s: at most {floor:,.0f} tokens/s in one stream", flush=True)
    found: dict[str, dict[str, float]] = {}
    for way in arguments.ways:
        answer = ours(shape) if way == "danlu" else theirs(shape, "compiled" in way)
        for name, pairs in works.items():
            if "compiled" in way and name == "256 mixed":
                continue  # every batch has another length, and each would be compiled
            answer(pairs)
            seconds = []
            for _ in range(arguments.rounds if way == "danlu" or name == "one stream" else 1):
                start = wait()
                answer(pairs)
                seconds.append(wait() - start)
            found.setdefault(name, {})[way] = sum(new for _, new in pairs) / statistics.median(seconds)
            print(f"{name:12} {way:36} {found[name][way]:10,.0f} tokens/s", flush=True)
    for name, rates in found.items():
        for way, tokens in rates.items():
            if way != "danlu" and "danlu" in rates:
                print(f"{name}: danlu is {rates['danlu'] / tokens:.2f} x {way}")
    if "danlu" in found["one stream"]:
        print(f"one stream: {found['one stream']['danlu'] / floor:.0%} of the floor")
    if arguments.json:
        arguments.json.write_text(json.dumps({"floor": floor, **found}, indent=1))


if __name__ == "__main__":
    main()
