"""How tokens are chosen, and how the terminal chat looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from danlu.config import Settings

Quantize = Literal["nf4", "int8", "int4", "full"]
QUANTIZE = (
    "Weights in 8 bits (int8: half of bf16's memory) or 4 (int4, nf4: a third); null: whole, but under QLoRA adapters "
    "as these were trained, in nf4; full: whole there too."
)


class SamplingSettings(Settings):
    """How the next token is chosen and when an answer ends. The filters apply in the order in which they are listed."""

    repetition_penalty: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="Divides positive and multiplies negative logits of every token seen so far; 1 is off.",
    )
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Subtracted from the logit of each token that the answer already holds."
    )
    frequency_penalty: float = Field(
        default=0.0,
        ge=-2,
        le=2,
        description="Subtracted from a token's logit once for each time that the answer holds it.",
    )
    no_repeat_ngram: int = Field(
        default=0, ge=0, description="No run of this many tokens appears twice in prompt and answer; 0 is off."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=100, description="0 takes the likeliest token; 1 samples from the model as it is."
    )
    top_k: int = Field(default=0, ge=0, description="Keep this many likeliest tokens; 0 keeps all.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Keep the likeliest tokens that together reach this probability."
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Drop tokens below this share of the likeliest one's probability."
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="Texts that end the answer; they are not part of it."
    )
    seed: int | None = Field(
        default=None, description="The same seed gives the same answer; null draws a new one each time."
    )
    max_tokens: int = Field(
        default=512, ge=1, description="The longest answer in tokens; the window may end it earlier."
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Keep log-probabilities of chosen tokens and of this many alternatives."
    )


class ChatSampling(SamplingSettings):
    """Sampling with the defaults of a conversation."""

    temperature: float = Field(
        default=0.7, ge=0, le=100, description="0 takes the likeliest token; higher is more varied."
    )
    top_p: float = Field(
        default=0.9, gt=0, le=1, description="Keep the likeliest tokens that together reach this probability."
    )


class ChatSettings(Settings):
    """The terminal chat."""

    language: Literal["en", "zh"] = Field(default="en", description="Language of the chat's own texts.")
    system: str | None = Field(default=None, description="System prompt; null leaves it to the model's template.")
    adapter: Path | None = Field(default=None, description="An adapter over the model, to talk with in its place.")
    quantize: Quantize | None = Field(default=None, description=QUANTIZE)
    template: str | None = Field(
        default=None, description="Chat template by name (chatml, baichuan2, ...), for a model that brings none."
    )
    raw: bool = Field(
        default=False, description="Continue the typed text as it is, without a chat template: for base models."
    )
    sampling: ChatSampling = Field(default=ChatSampling(), description="How answers are sampled.")
