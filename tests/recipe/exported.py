"""Small models with tokenizers of both kinds, to be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from danlu.infer.score import hidden_states
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.recipe.same_ids import TELLING
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.train import train_tokenizer

LONGER = 40  # end tokens that are learned behind a text
SMALL = {"hidden_size": 64, "layers": 3, "heads": 4, "kv_heads": 2, "mlp_size": 96, "max_positions": 512}
LLAMA3 = {"type": "llama3", "factor": 8.0, "original_max_positions": 64}
YARN = {"type": "yarn", "factor": 4.0, "original_max_positions": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3", "head_dim": 32, "tie_embeddings": False},
    "llama": {"family": "llama", "tie_embeddings": False, "rope_theta": 5e5, "rope_scaling": LLAMA3},
    "mistral": {"family": "mistral", "tie_embeddings": False, "sliding_window": 256, "head_dim": 32},
    "internlm2": {"family": "internlm2", "rope_scaling": {"type": "linear", "factor": 2.0}},
    "qwen2 yarn": {"family": "qwen2", "rope_scaling": YARN},
    "baichuan 7b": {"family": "baichuan", "kv_heads": 4},
    "baichuan 13b": {"family": "baichuan", "kv_heads": 4, "positions": "alibi", "layers": 40},
}


def train_words(folder: Path, kind: str) -> Tokenizer:
    """A tokenizer of `kind` learned from the texts on which splittings differ."""
    own = {"vocab_size": 640} if kind == "sentencepiece" else {"vocab_size": 448, "min_frequency": 1}
    settings = TokenizerTrainSettings.model_validate({"kind": kind, "reserved": 4, **own})
    return train_tokenizer(settings, list(TELLING) * 4, folder)


def write_model(folder: Path, shape: str, tokenizer: Tokenizer, steps: int = 0) -> Path:
    """A random model, biases and norms too; after `steps` of training one that knows texts by heart, and that they end,
    so that its likeliest tokens are far from the next ones."""
    settings = ModelSettings.model_validate(
        {**SMALL, **SHAPES[shape], "vocab_size": -(-tokenizer.vocab_size // 64) * 64, "init_std": 0.15}
    )
    decoder = Decoder(settings)
    initialise(decoder, 7)
    with torch.no_grad():
        for part in decoder.parts():
            if part.name.endswith("bias") or part.name.endswith("norm.weight"):
                noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(len(part.name)))
                part.write(part.parameter.detach(), part.read(part.parameter) + 0.1 * noise)
        decoder.embed.weight *= 6
    if steps:
        ends = [tokenizer.special["<|im_end|>"]] * LONGER
        recite(decoder, [tokenizer.encode(text) + ends for text in told_apart(tokenizer)], steps)
    save_decoder(decoder, folder, tokenizer)
    return folder


def told_apart(tokenizer: Tokenizer) -> list[str]:
    """The texts on which splittings differ, one for each token that they begin with: all that follows is certain."""
    return list({tokenizer.encode(text)[0]: text for text in TELLING}.values())


def recite(decoder: Decoder, texts: list[list[int]], steps: int) -> None:
    batch = [tuple(ids) for ids in sorted(texts, key=len, reverse=True)]
    places = torch.tensor([(row, place) for row, ids in enumerate(batch) for place in range(len(ids) - 1)]).T
    targets = torch.tensor([token for ids in batch for token in ids[1:]])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(steps):
        hidden_BTD = hidden_states(decoder, batch, torch.device("cpu"))
        loss = F.cross_entropy(decoder.head.logits(hidden_BTD[places[0], places[1]]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02, f"{loss.item()} nats after {steps} steps"
