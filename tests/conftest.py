"""What every test shares: the real data when it is there, and one thread so that tests share the cores fairly."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: $DANLU_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("DANLU_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} (set DANLU_DATA)")
    return folder


@pytest.fixture(scope="session")
def qwen_tokenizer(shared_data: Path) -> Path:
    """The Qwen2.5 tokenizer's folder."""
    return shared_data / "tokenizers" / "qwen2.5"


@pytest.fixture(scope="session")
def reciting_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChatML model that answers any chat with `你好，Hello world👋！` and then its end token, and repeats ∞ for ever.

    Each token but those is followed by `.`; 👋 comes in four tokens of a byte each. The window is 256.
    """
    import tokenizers
    import torch

    from danlu.model.decoder import Decoder
    from danlu.model.folder import save_decoder
    from danlu.model.settings import ModelSettings
    from danlu.tokens.characters import byte_alphabet
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer

    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: byte for byte, letter in letters.items()}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    words = ["你", "好", "，", "Hello", "world", "！", "∞"]
    backend.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    plain = Tokenizer(backend, {"eos_token": "<|im_end|>"})
    tokenizer = Template(plain, system="none", choice="chatml").tokenizer

    chain = ["\n", "你", "好", "，", "Hello", " ", "world", *"👋".encode(), "！", "<|im_end|>"]
    ids = [link if isinstance(link, int) else tokenizer.encode_markup(link)[0] for link in chain]
    endless, dot, size = tokenizer.encode("∞")[0], ord("."), tokenizer.vocab_size
    decoder = Decoder(
        ModelSettings(
            family="llama", vocab_size=size, hidden_size=size + size % 2, layers=1, heads=1, mlp_size=4,
            max_positions=256, tie_embeddings=False,
        )
    )  # fmt: skip
    for weight in decoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.zeros_(weight)
    torch.nn.init.eye_(decoder.embed.weight)
    follower = dict.fromkeys(range(size), dot) | dict(itertools.pairwise(ids)) | {endless: endless}
    for token, after in follower.items():
        decoder.head.weight.data[after, token] = 1.0
    folder = tmp_path_factory.mktemp("models") / "reciting"
    save_decoder(decoder, folder, tokenizer)
    return folder
