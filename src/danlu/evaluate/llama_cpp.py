"""A GGUF file in llama.cpp, asked through its Python package: whether others get from it what danlu wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGE = "llama-cpp-python"


def installed() -> str | None:
    """The package's name and version, None where it is not there."""
    return f"{PACKAGE} {version(PACKAGE.replace('-', '_'))}" if find_spec("llama_cpp") else None


@contextmanager
def _weights_as_they_lie() -> Iterator[None]:
    """Models opened within keep weights as they are in the file. Put in another order for AMX, those of 8 bits end the
    whole process (llama-cpp-python 0.3.36), and its `Llama` takes no such setting.
    """
    from llama_cpp import llama_cpp as library

    usual = library.llama_model_default_params

    def params() -> Any:
        found = usual()
        found.use_extra_bufts = False
        return found

    library.llama_model_default_params = params
    try:
        yield
    finally:
        library.llama_model_default_params = usual


@dataclass(frozen=True)
class InLlamaCpp:
    """A `Form` (see `danlu.evaluate.agreement`) on the CPU, as llama.cpp computes by default, with weights as they are
    in the file.
    """

    llama: Any

    @classmethod
    def open(cls, path: Path, tokens: int) -> InLlamaCpp:
        """With room for `tokens`. Raises ValueError for a file that llama.cpp refuses."""
        from llama_cpp import Llama

        room = -(-tokens // 256) * 256
        with _weights_as_they_lie():
            return cls(
                Llama(
                    str(path),
                    n_ctx=room,
                    n_batch=room,
                    logits_all=True,
                    n_gpu_layers=0,
                    n_threads=torch.get_num_threads(),
                    verbose=False,
                )
            )

    def encode(self, text: str, markup: bool = False) -> list[int]:
        """Token ids without a start token; `markup`: the text of a special token is that token."""
        ids: list[int] = self.llama.tokenize(text.encode(), add_bos=False, special=markup)
        return ids

    def logp(self, ids: Sequence[int]) -> Tensor:
        self.llama.reset()
        self.llama.eval(list(ids))
        logits_TV = torch.from_numpy(np.array(self.llama.scores[: len(ids)], dtype=np.float32))
        return logits_TV.log_softmax(-1)

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        answers = []
        for prompt in prompts:
            answer = [int(self.logp(prompt)[-1].argmax())]
            while len(answer) < count:
                self.llama.eval(answer[-1:])
                answer.append(int(np.argmax(self.llama.scores[self.llama.n_tokens - 1])))
            answers.append(answer)
        return answers
