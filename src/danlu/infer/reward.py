"""What a reward model says of answers: `reward_scores(folder)` gives a function from conversations to numbers, and
`rewards(model, …)` scores token ids. The greater, the better; only differences between answers to one prompt mean much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from danlu.infer.model import Model, load
from danlu.infer.score import batches, hidden_states
from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.text.records import Message
from danlu.tokens.cut import cut
from danlu.tokens.encode import Encoded


def reward_scores(
    folder: Path | str, device: str | None = None, dtype: str | None = None
) -> Callable[[Sequence[Sequence[Message]]], np.ndarray]:
    """A function from conversations, each ending in an answer, to their rewards, float32 [conversations].

    `folder`, `device` and `dtype` are as `load` takes them. A conversation longer than the window loses its oldest
    turns, then the end of the answer; one that cannot be cut to fit gives NaN. Raises UserError for a folder that
    holds no reward model, and for a conversation that the chat template refuses or that ends in no answer.
    """
    model = load(folder, device, dtype)
    _require_rewards(model)
    return lambda conversations: reward_conversations(model, conversations)


def reward_conversations(model: Model, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
    """Rewards of conversations, float32, as `reward_scores` says."""
    if model.template is None:
        raise UserError("this reward model has no chat template", where=model.name, do="put its template back")
    encoded = []
    for conversation in conversations:
        messages = list(conversation)
        if not messages or messages[-1]["role"] != "assistant":
            raise UserError("there is no answer at the end to be scored", do="end it with an assistant message")
        asked = max((place for place, said in enumerate(messages, 1) if said["role"] == "user"), default=0)
        encoded.append(model.template.encode_answer(messages[:asked], messages[asked:]))
    return rewards(model, encoded)


def rewards(model: Model, documents: Sequence[Encoded], window: int | None = None) -> np.ndarray:
    """Rewards of encoded conversations, float32, cut to the window as training cuts them; NaN where nothing is left."""
    _require_rewards(model)
    length = min(window or model.engine.window, model.engine.window)
    fitted = [_fitted(model, document, length) for document in documents]
    return rewards_of_tokens(model.decoder, [tuple(tokens) for tokens in fitted])


def _fitted(model: Model, document: Encoded, window: int) -> list[int]:
    if len(document) > window:
        kept = cut([document], window, "tail", window // 2, model.tokenizer.token_bytes).documents
        return kept[0].tokens.tolist() if kept else []
    return document.tokens.tolist()


@torch.inference_mode()
def rewards_of_tokens(decoder: Decoder, sequences: Sequence[tuple[int, ...]]) -> np.ndarray:
    """What a reward model gives to token ids, float32 [sequences]; NaN to an empty sequence."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, sequence in enumerate(sequences):
        if sequence:
            places.setdefault(sequence, []).append(place)
    found, head = np.full(len(sequences), np.nan, np.float32), decoder.reward
    assert head is not None
    for batch in batches(sorted(places, key=len, reverse=True)):
        hidden_BTD = hidden_states(decoder, batch, decoder.embed.weight.device)
        last_BD = hidden_BTD[torch.arange(len(batch)), torch.tensor([len(sequence) - 1 for sequence in batch])]
        for sequence, value in zip(batch, head(last_BD).float().tolist(), strict=True):
            found[places[sequence]] = value
    return found


def _require_rewards(model: Model) -> None:
    if model.decoder.reward is None:
        raise UserError(
            "this model writes answers and rewards none",
            where=model.name,
            do="name a reward model's folder, such as the stage `reward` writes",
        )
