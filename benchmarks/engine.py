"""Tokens per second of batched greedy generation on one CPU core: the engine against transformers' `generate`.

    OMP_NUM_THREADS=1 python benchmarks/engine.py

One random Qwen2 of 2.4 million parameters, 256 prompts of 10 to 39 tokens, 64 at a time; answers of 32 tokens each,
then of 4 to 60.
Seconds are the process's own, so that a busy machine does not change the ratio. transformers gets its prompts sorted
by length and padded, and a batch lasts until its longest answer; what is counted are the tokens that were asked for.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from danlu.infer.engine import Engine
from danlu.infer.settings import SamplingSettings
from danlu.model.folder import load_decoder

PROMPTS, BATCH, NEW, ROUNDS = 256, 64, 32, 4
SHAPE = Qwen2Config(
    vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=None, pad_token_id=0,
    initializer_range=0.1,
)  # fmt: skip


@torch.no_grad()
def transformers_answers(model: Qwen2ForCausalLM, prompts: list[list[int]], lengths: list[int]) -> None:
    ordered = sorted(zip(prompts, lengths, strict=True), key=lambda pair: len(pair[0]), reverse=True)
    for first in range(0, len(ordered), BATCH):
        batch = [prompt for prompt, _ in ordered[first : first + BATCH]]
        new = max(length for _, length in ordered[first : first + BATCH])
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False)


def engine_answers(engine: Engine, prompts: list[list[int]], lengths: list[int], **sampling: float) -> None:
    asked = sorted(zip(prompts, lengths, strict=True), key=lambda pair: len(pair[0]), reverse=True)
    engine.finish([engine.submit(prompt, SamplingSettings(max_tokens=new, **sampling)) for prompt, new in asked])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = Qwen2ForCausalLM(SHAPE).eval()
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        engine = Engine(load_decoder(Path(folder)), max_batch=BATCH)
    prompts = [torch.randint(1, 4096, (length,)).tolist() for length in torch.randint(10, 40, (PROMPTS,)).tolist()]
    even, uneven = [NEW] * PROMPTS, torch.randint(4, 61, (PROMPTS,)).tolist()
    runs = {
        "answers of 32, greedy: engine": lambda: engine_answers(engine, prompts, even),
        "answers of 32, greedy: transformers": lambda: transformers_answers(reference, prompts, even),
        "answers of 4 to 60, greedy: engine": lambda: engine_answers(engine, prompts, uneven),
        "answers of 4 to 60, greedy: transformers": lambda: transformers_answers(reference, prompts, uneven),
        "answers of 32, temperature 0.7, top-k 50, top-p 0.9: engine": lambda: engine_answers(
            engine, prompts, even, temperature=0.7, top_k=50, top_p=0.9
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    for name, taken in seconds.items():
        tokens = sum(uneven if "60" in name else even)
        print(f"{name}: {tokens / min(taken):,.0f} tokens per CPU second")


if __name__ == "__main__":
    main()
