"""Generation with the mini_qwen 1B shape on a GPU: the engine against transformers' `generate`.

    python benchmarks/generation.py [--adapter RANK] [--rounds N] [--json FILE] [--tiny --device cpu] [WAY ...]

Greedy answers of fixed lengths to prompts of random tokens: one stream, 64 streams, and 256 prompts and answers of
mixed lengths. transformers runs eagerly, and compiled with a static cache where a batch has one length (on a CPU it
does not compile); both have bf16 weights of the same shape. With --adapter, over an adapter of that rank on all
projections, in bf16 and not merged: loaded into the engine and named by each request, or PEFT's there.

The ways run in turn, each in a process of its own. The floor of one stream is the time of reading the weights once a
token, at the rate of a copy measured beside it. Tokens asked for are counted, not padding; the first time is not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import chain
from danlu.infer.engine import Engine
from danlu.infer.settings import SamplingSettings
from danlu.model.adapt import AdapterShape, attach, load_several, slots, trained
from danlu.model.adapters import LoRA
from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings, parameters
from danlu.train import tune_settings

ONE_BILLION = {
    "vocab_size": 151_936, "hidden_size": 1_024, "layers": 48, "heads": 16, "kv_heads": 4, "mlp_size": 4_864,
}  # fmt: skip
TINY = {"vocab_size": 512, "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 96}
EAGER, COMPILED = "transformers", "transformers, static and compiled"
WORKS = ("one stream", "64 streams", "256 mixed")
COLUMNS = [
    column
    for name in WORKS
    for column in ((name, name, ",.0f"), ("× eager", f"{name} to eager", ".2f"), ("× best", name, "x"))
] + [("of the floor", "of_floor", ".0%")]
TIMES = 3
Work = list[tuple[list[int], int]]
"""Prompts, and how many tokens each is to be answered with."""


def wait(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_rate(device: str) -> float:
    """Bytes a second read and written by a large copy."""
    source = torch.empty(2**31 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    start = wait(device)
    for _ in range(5):
        target.copy_(source)
    return 10 * source.numel() / (wait(device) - start)


def work(count: int, prompt: tuple[int, int], answer: tuple[int, int], vocabulary: int) -> Work:
    generator = torch.Generator().manual_seed(0)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    return [
        (torch.randint(vocabulary, (between(*prompt),), generator=generator).tolist(), between(*answer))
        for _ in range(count)
    ]


def ours(shape: ModelSettings, device: str, rank: int | None) -> Callable[[Work], None]:
    decoder = Decoder.empty(shape, torch.bfloat16, device)
    initialise(decoder, 0)
    if rank:
        attach(decoder, AdapterShape(rank, alpha=2 * rank), 0)
        for _, _, adapter in trained(decoder):
            for pair in adapter.of():
                pair.b.data.normal_(0.0, 0.02)
        made = {(layer, name): slot.adapters for layer, name, slot in slots(decoder)}
        load_several(decoder, [{at: one for at, one in made.items() if isinstance(one, LoRA)}], torch.bfloat16)
    engine = Engine(decoder, max_batch=256, max_tokens_in_cache=2**18, adapters=1 if rank else 0)

    def answer(work: Work) -> None:
        ordered = sorted(work, key=lambda pair: -len(pair[0]))
        settings = [(prompt, SamplingSettings(max_tokens=new, temperature=0)) for prompt, new in ordered]
        engine.finish([engine.submit(*one, adapter=0 if rank else None) for one in settings])

    return answer


def theirs(
    shape: ModelSettings, device: str, rank: int | None, compiled: bool, batch: int = 64
) -> Callable[[Work], None]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model: Any = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if rank:
        from peft import LoraConfig, get_peft_model

        added = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, added, autocast_adapter_dtype=False)
    model.eval()
    options = {"cache_implementation": "static"} if compiled else {}

    @torch.no_grad()
    def answer(work: Work) -> None:
        ordered = sorted(work, key=lambda pair: -len(pair[0]))
        for first in range(0, len(ordered), batch):
            part = ordered[first : first + batch]
            width, new = max(len(prompt) for prompt, _ in part), max(new for _, new in part)
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in part], device=device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in part], device=device)
            model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, **options
            )

    return answer


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each work, and what share of the floor's one stream has."""
    shape = ModelSettings.model_validate(TINY if given.tiny else ONE_BILLION)
    few = 8 if given.tiny else 1
    works = (
        work(1, (128, 128), (256 // few, 256 // few), shape.vocab_size),
        work(64, (128, 128), (128 // few, 128 // few), shape.vocab_size),
        work(256, (16, 512 // few), (16 // few, 256 // few), shape.vocab_size),
    )
    rate, rank, found = copy_rate(given.device), given.adapter, dict[str, Any]()
    if chain.is_ours(way):
        answer = ours(shape, given.device, rank)
    else:
        answer = theirs(shape, given.device, rank, {EAGER: False, COMPILED: True}[way])
    for name, pairs in zip(WORKS, works, strict=True):
        if way == COMPILED and name == "256 mixed":
            continue  # every batch has another length, and each would be compiled
        answer(pairs)
        seconds = []
        for _ in range(TIMES if chain.is_ours(way) or name == "one stream" else 1):
            start = wait(given.device)
            answer(pairs)
            seconds.append(wait(given.device) - start)
        found[name] = sum(new for _, new in pairs) / statistics.median(seconds)
    read = parameters(shape) + (tune_settings.trained_parameters(tune_settings.LoRA(rank=rank), shape) if rank else 0)
    return {**found, "floor": rate / (2 * read), "of_floor": found["one stream"] * 2 * read / rate}


def to_eager(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their ratios to `generate` as it comes."""
    eager = next((row for row in found if row["way"] == EAGER), {})
    for row in found:
        row |= {f"{name} to eager": row[name] / eager[name] for name in WORKS if name in row and name in eager}
    return found


def main() -> None:
    options = chain.parser(__doc__, ["danlu", EAGER, COMPILED])
    options.add_argument("--adapter", type=int, metavar="RANK", help="over an adapter of that rank, not merged")
    given = options.parse_args()
    chain.show(given, to_eager(chain.run(given, measure)), COLUMNS, adapter=given.adapter)


if __name__ == "__main__":
    main()
