"""Answers to questions, through the chat template or as plain text to be continued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from danlu.evaluate.repetition import Answer
from danlu.infer.settings import SamplingSettings

if TYPE_CHECKING:
    from danlu.infer.engine import Event, Finish
    from danlu.infer.model import Model
    from danlu.ledger.progress import Bar

Form = Literal["chat", "raw"]
RAW_QUESTION = {"en": "Question: {}\nAnswer:", "zh": "问题：{}\n答案："}
"""How a model without a template is asked; its answer ends with the line."""
GREEDY = SamplingSettings(temperature=0.0)
AS_IT_IS = SamplingSettings(temperature=1.0, seed=0)
"""What a model says by itself, and the same every time."""


@dataclass(slots=True)
class _Pieces:
    text: str = ""
    ended: bool = False

    def __call__(self, piece: str, event: Event, finish: Finish | None) -> None:
        self.text += piece
        self.ended = finish == "stop"


def question_prompt(model: Model, question: str, language: str, form: Form) -> list[int]:
    """The tokens that ask a question."""
    if form == "chat":
        return model.chat_prompt([{"role": "user", "content": question}])
    return model.raw_prompt(RAW_QUESTION.get(language, RAW_QUESTION["en"]).format(question))


def ask(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop: list[str],
    window: int,
    bar: Bar,
    sampling: SamplingSettings = GREEDY,
) -> list[Answer]:
    """The answer to each prompt, in order, batched by the engine; where `sampling` has a seed, each has its own.

    A prompt that leaves less than `max_tokens`, or half of the `window`, for its answer loses its beginning.
    """
    most = window - min(max_tokens, window // 2)
    pieces = [_Pieces() for _ in prompts]
    requests = []
    for number, (prompt, piece) in enumerate(zip(prompts, pieces, strict=True)):
        seed = None if sampling.seed is None else sampling.seed + number
        own = sampling.model_copy(update={"max_tokens": max_tokens, "stop": stop, "seed": seed})
        requests.append(model.submit(prompt[-most:], own, piece))
    for request in requests:
        model.engine.finish([request])
        bar.advance(1)
    return [
        Answer(list(request.tokens), piece.text, piece.ended) for request, piece in zip(requests, pieces, strict=True)
    ]
