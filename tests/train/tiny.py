"""A tiny run that tests share: byte tokens, documents with a pattern in them, a decoder of a few thousand weights.

As a program it runs what `launch` hands it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.reward_head import reward_decoder
from danlu.model.settings import ModelSettings
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import BAD, DOCUMENTS, GOOD, Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.tokens.tokenizer import Tokenizer
from danlu.train.loop import train
from danlu.train.objectives.base import Objective
from danlu.train.objectives.table import objective_of
from danlu.train.preference_settings import (
    TRAIN_SETTINGS,
    KTOTrainSettings,
    PreferenceTrainSettings,
    RewardTrainSettings,
)
from danlu.train.settings import TrainSettings

LENGTH = 32
VOCABULARY = 259
SHAPE = ModelSettings(
    family="qwen2",
    vocab_size=VOCABULARY,
    hidden_size=16,
    layers=2,
    heads=4,
    kv_heads=2,
    mlp_size=32,
    max_positions=128,
    init_std=0.1,
)
NONE = np.zeros(0, np.int32)


def tokenizer() -> Tokenizer:
    """Bytes and three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return Tokenizer(backend, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})


def encoded(random: np.random.Generator, low: int = 4, high: int = 30) -> Encoded:
    """A text whose tokens count up from a random one; the first third is not in the loss."""
    size = int(random.integers(low, high))
    tokens = (int(random.integers(0, 200)) + np.arange(size) * int(random.integers(1, 3))) % 256
    weights = (np.arange(size) >= size // 3).astype(np.float32)
    return Encoded(tokens.astype(np.uint32), weights, NONE, NONE, NONE, NONE, size)


def token_set(folder: Path, unit: str, examples: int, seed: int) -> TokenSet:
    """Random examples on disk; opened where they are there already."""
    if not (folder / "manifest.json").is_file():
        random = np.random.default_rng(seed)
        spelling = Spelling.of(tokenizer())
        with TokenSetWriter(folder, unit, spelling, tokenizer="t", shard_tokens=600) as writer:
            for number in range(examples):
                documents = [encoded(random) for _ in range(DOCUMENTS[unit])]
                labels = ((GOOD, BAD)[number % 3 == 0],) if unit == "labelled" else ()
                writer.add(Example(documents, "counting", seed * 1_000_000 + number, labels))
    return TokenSet.open(folder)


def stream(folder: Path, unit: str = "document", examples: int = 96, seed: int = 1, **more: Any) -> Stream:
    """A stream over two token sets in `folder`."""
    sets = [(token_set(folder / f"{unit}-{part}", unit, examples // 2, seed + part), 1.0) for part in (0, 1)]
    return Stream(sets, length=LENGTH, unit=unit, pack=more.pop("pack", "best_fit"), seed=seed, **more)


def decoder(dtype: torch.dtype = torch.float32, seed: int = 3) -> Decoder:
    made = Decoder.empty(SHAPE, dtype)
    initialise(made, seed)
    return made


def unit_of(settings: TrainSettings) -> str:
    """What the objective of these settings is trained on."""
    if isinstance(settings, KTOTrainSettings):
        return "labelled"
    return "pair" if isinstance(settings, PreferenceTrainSettings) else "document"


def run(
    out: Path,
    settings: TrainSettings,
    unit: str = "document",
    data: Path | None = None,
    device: str = "cpu",
    objective: Objective | None = None,
    **more: Any,
) -> Path:
    """One whole run; the data lies beside `out`."""
    data = data or out.parent / "data"
    objective = objective or objective_of(settings)
    held_out = {"counting": stream(data / "held_out", unit, 8, seed=9)}
    training = stream(data, unit, epochs=settings.epochs, skip=settings.skip)
    start = reward_decoder(decoder(), 3) if isinstance(settings, RewardTrainSettings) else decoder()
    return train(settings, objective, start, tokenizer(), None, training, held_out, out, device=device, **more)


def launch(processes: int, runs: list[tuple[Path, TrainSettings]], program: str = __file__) -> subprocess.Popen[str]:
    """Starts the runs, one after the other, in `processes` new processes (under torchrun where there are several)."""
    jobs = json.dumps([[str(out), type(settings).__name__, settings.model_dump_json()] for out, settings in runs])
    alone = [sys.executable, program, jobs]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = alone if processes == 1 else [*several, program, jobs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, start_new_session=True, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for what `launch` started; raises RuntimeError with what it said where it failed."""
    try:
        said = process.communicate(timeout=120)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode:
        raise RuntimeError(said[-30000:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for out, kind, settings in json.loads(sys.argv[1]):
        kinds = {one.__name__: one for one in TRAIN_SETTINGS.values()}
        given = kinds[kind].model_validate_json(settings)
        run(Path(out), given, unit_of(given))
