"""What a reward model has in place of a head: one number for a hidden state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from danlu.model.head import Head
from danlu.model.parts import initialise

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder
    from danlu.model.settings import ModelSettings


class RewardHead(nn.Module):
    """The product of a hidden state with one vector, as `score` of transformers' ...ForSequenceClassification."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Rewards [N] in float32, or float64 where the weights are: differences are small beside them."""
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        return torch.mv(hidden_ND.to(wide), self.score.weight[0].to(wide))


def reward_shape(settings: ModelSettings) -> ModelSettings:
    """The same decoder's shape with a reward head."""
    return settings.model_copy(update={"head": "reward", "tie_embeddings": False})


def reward_decoder(decoder: Decoder, seed: int) -> Decoder:
    """The decoder itself with a reward head in place of its own; one that has it stays as it is.

    The head is random, normal with `init_std`, as transformers' own, and in float32; the weights, an adapter among
    them, stay what and where they are.
    """
    if decoder.reward is not None:
        return decoder
    settings = reward_shape(decoder.settings)
    decoder.settings = settings
    decoder.head = Head(settings.hidden_size, settings.vocab_size, decoder.embed)
    decoder.reward = RewardHead(settings.hidden_size).to(decoder.embed.weight.device)
    initialise(decoder, seed, within="reward.")
    return decoder
