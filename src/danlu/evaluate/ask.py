"""Greedy answers to questions, through the chat template or as plain text to be continued."""

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
    model: Model, prompts: Sequence[Sequence[int]], max_tokens: int, stop: list[str], window: int, bar: Bar
) -> list[Answer]:
    """The greedy answer to each prompt, in order, batched by the engine.

    A prompt that leaves less than `max_tokens`, or half of the `window`, for its answer loses its beginning.
    """
    sampling = SamplingSettings(temperature=0.0, max_tokens=max_tokens, stop=stop)
    most = window - min(max_tokens, window // 2)
    pieces = [_Pieces() for _ in prompts]
    requests = [model.submit(prompt[-most:], sampling, piece) for prompt, piece in zip(prompts, pieces, strict=True)]
    for request in requests:
        model.engine.finish([request])
        bar.advance(1)
    return [
        Answer(list(request.tokens), piece.text, piece.ended) for request, piece in zip(requests, pieces, strict=True)
    ]
