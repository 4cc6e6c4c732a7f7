"""What every test shares: the real data when it is there, and one thread so that tests share the cores fairly."""

from __future__ import annotations

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
