"""Peak memory measured beside what danlu counts: mini_qwen's 1B shape, Baichuan's 7B and 13B, by method and settings.

    python benchmarks/memory.py [--json FILE] [WAY ...]
    python benchmarks/memory.py "stage=dpo rows=2 recompute=true" 'model=7B length=2048 rows=4 tune={"method":"lora"}'

A way is a list of settings of TrainSettings, and of model (1B, 7B, 13B), length and stage (pretrain, dpo). Each takes
the heaviest batch that a run can meet, full rows with every token in the loss, three times with its updates; beside the
measured peak stand the parts as danlu counts them. SFT meets no heavier batch than pretraining. The reference of DPO is
computed beforehand and takes no memory besides a number a text.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from chain import Column, parser, run, show
from danlu.model.families.published import PUBLISHED
from danlu.model.settings import parameters
from danlu.tokens.characters import TokenBytes
from danlu.tokens.encode import Encoded
from danlu.tokens.shards import Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.train.heaviest import heaviest, random_decoder
from danlu.train.memory import needs
from danlu.train.objectives.table import objective_of
from danlu.train.precision import DTYPES
from danlu.train.preference_settings import DPOTrainSettings
from danlu.train.settings import TrainSettings
from fine_tuning import TINY
from training import SHAPE, value_of

WAYS = (
    "rows=2",
    "rows=12",
    "rows=12 recompute=true",
    "rows=2 recompute=true",
    "rows=2 recompute=true optimizer_states=bf16",
    "rows=2 recompute=true optimizer_states=8bit",
    "rows=2 recompute=true precision=fp16",
    "stage=dpo rows=12",
    "model=7B length=2048 rows=1 optimizer_states=8bit",
    'model=7B length=2048 rows=4 tune={"method":"lora","rank":16}',
    'model=7B rows=4 tune={"method":"qlora"}',
    'model=7B rows=1 tune={"method":"qlora"} recompute=true optimizer_states=paged',
    'model=13B rows=4 tune={"method":"qlora"} recompute=true optimizer_states=8bit',
)
SHAPES = {"1B": SHAPE, "7B": PUBLISHED["baichuan-7b"].shape, "13B": PUBLISHED["baichuan-13b"].shape}
COLUMNS: list[Column] = [
    ("rows", "rows", ".0f"),
    ("peak GiB", "peak", ".2f"),
    ("counted", "counted", ".2f"),
    ("peak / counted", "ratio", ".3f"),
    ("weights", "weights", ".2f"),
    ("float32 copies", "masters", ".2f"),
    ("gradients", "gradients", ".2f"),
    ("moments", "moments", ".2f"),
    ("activations", "activations", ".2f"),
    ("loss", "loss", ".2f"),
    ("tokens/s", "tokens_per_second", ",.0f"),
]


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    values = _values(way)
    shape = TINY.model_copy(update={"vocab_size": 512}) if given.tiny else SHAPES[values.get("model", "1B")]
    length = 96 if given.tiny else values.get("length", 1_024)
    settings = settings_of(way, given)
    with tempfile.TemporaryDirectory() as folder:
        stream = _stream(Path(folder), shape.vocab_size, length, pairs=values.get("stage") == "dpo")
        load = heaviest(settings, objective_of(settings), random_decoder(settings, shape, 0), stream)
    gpu = torch.cuda.mem_get_info()[1] if given.device == "cuda" else None
    counted = needs(settings, shape, gpu).of(load.rows * stream.length)
    return {
        "rows": load.rows,
        "parameters": parameters(shape),
        "compute_bytes": DTYPES[settings.precision].itemsize,
        "tokens_per_second": load.tokens_per_second,
        "peak": load.peak_bytes / 2**30,
        "counted": counted.total / 2**30,
        "ratio": load.peak_bytes / counted.total,
        **{name: value / 2**30 for name, value in vars(counted).items()},
    }


def settings_of(way: str, given: argparse.Namespace) -> TrainSettings:
    values = _values(way)
    kind = DPOTrainSettings if values.pop("stage", "pretrain") == "dpo" else TrainSettings
    values = {key: value for key, value in values.items() if key not in ("model", "length")}
    return kind.model_validate({"batch": 8, "precision": "bf16" if given.device == "cuda" else "float32", **values})


def _values(way: str) -> dict[str, Any]:
    return {key: value_of(value) for key, _, value in (item.partition("=") for item in way.split())}


def _stream(folder: Path, vocabulary: int, length: int, pairs: bool) -> Stream:
    """A stream of the unit, whose one example is never looked at."""
    none, unit = np.zeros(0, np.int32), "pair" if pairs else "document"
    spelling = Spelling(TokenBytes.of([b"a"] * vocabulary), np.zeros(vocabulary, bool))
    text = Encoded(np.ones(length, np.uint32), np.ones(length, np.float32), none, none, none, none, length)
    with TokenSetWriter(folder, unit, spelling, tokenizer="none") as writer:
        for number in range(16):
            writer.add(Example([text] * (1 + pairs), "one", number))
    kind: Any = {"unit": "pair", "pack": "best_fit"} if pairs else {"unit": "window", "pack": "concat"}
    return Stream([(TokenSet.open(folder), 1.0)], length=length, **kind)


def main() -> None:
    options = parser(__doc__, WAYS)
    given = options.parse_args()
    if not given.one:
        known = [way for way in given.ways if _known(way, given)]
        print(
            *(f"{way}: left out, these settings are not known here" for way in given.ways if way not in known), sep="\n"
        )
        given.ways = known
    show(given, run(given, measure), COLUMNS)


def _known(way: str, given: argparse.Namespace) -> bool:
    try:
        settings_of(way, given)
    except ValidationError:
        return False
    return True


if __name__ == "__main__":
    main()
