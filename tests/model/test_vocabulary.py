"""A decoder with more tokens: what it says of the old ones changes by the new rows' share, and by nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.attention import masked_attention
from danlu.model.decoder import Decoder
from danlu.model.parts import initialise, unfused_state
from danlu.model.settings import ModelSettings
from danlu.model.vocabulary import grow_vocabulary

OLD, TOKENS = 64, 60  # rows of the embedding, and tokens that the tokenizer knew
PIECES = {60 + number: [number, 2 * number + 1, 7] for number in range(10)}


def decoder(**shape: Any) -> Decoder:
    small = {"vocab_size": OLD, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 48} | shape
    made = Decoder.empty(ModelSettings.model_validate(small), torch.float64)
    initialise(made, 0)
    for weight in made.parameters():
        weight.data *= 8  # far from uniform predictions
    return made


def logits(model: Decoder, tokens_BT: Tensor) -> Tensor:
    positions = torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT)
    hidden = model(tokens_BT, positions, lambda layer, q, k, v: masked_attention(q, k, v, None))
    return model.head.logits(hidden)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("multiple", [1, 128])
@torch.no_grad()
def test_the_loss_on_old_text_changes_by_the_share_of_the_new_rows(tied: bool, multiple: int) -> None:
    model = decoder(tie_embeddings=tied)
    grown = grow_vocabulary(model, PIECES, multiple)
    assert grown.settings.vocab_size == math.ceil(70 / multiple) * multiple
    tokens = torch.randint(TOKENS, (3, 40), generator=torch.Generator().manual_seed(0))
    before, after = logits(model, tokens), logits(grown, tokens)
    torch.testing.assert_close(after[..., :TOKENS], before[..., :TOKENS], rtol=1e-12, atol=1e-9)

    p = before[..., :TOKENS].softmax(-1)  # of the tokens that there were, over their own sum
    new = sum(p[..., pieces].log().mean(-1).exp() for pieces in PIECES.values())
    unused = (grown.settings.vocab_size - 70) * p.log().mean(-1).exp()
    assert isinstance(new, Tensor)
    assert grown.settings.vocab_size > 70 or not unused.any()
    labels = tokens.roll(-1, 1)
    old_loss = F.cross_entropy(before[..., :TOKENS].mT, labels, reduction="none")
    loss = F.cross_entropy(after.mT, labels, reduction="none")
    torch.testing.assert_close(loss - old_loss, torch.log1p(new + unused), rtol=1e-9, atol=1e-9)

    bound = sum(p[..., pieces].mean(-1) for pieces in PIECES.values()) + unused
    assert ((loss - old_loss) <= torch.log1p(bound) + 1e-12).all()


@pytest.mark.parametrize("tied", [True, False])
def test_only_new_rows_are_new(tied: bool) -> None:
    model = decoder(tie_embeddings=tied).to(torch.bfloat16)
    grown = grow_vocabulary(model, PIECES)
    before, after = unfused_state(model), unfused_state(grown)
    assert before.keys() == after.keys()
    for name, value in after.items():
        kept = TOKENS if len(value) == 128 else None
        assert value.dtype == torch.bfloat16
        assert torch.equal(value[:kept], before[name][:kept]), name
    row = after["model.embed_tokens.weight"][63].float()
    expected = before["model.embed_tokens.weight"][PIECES[63]].float().mean(0)
    torch.testing.assert_close(row, expected.bfloat16().float())


def test_rows_that_are_there_are_used_first() -> None:
    grown = grow_vocabulary(decoder(vocab_size=256), PIECES)
    assert grown.settings.vocab_size == 256
