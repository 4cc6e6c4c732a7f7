"""Where and for whom a model is served."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field, model_validator

from danlu.config import Settings
from danlu.infer.settings import QUANTIZE, Quantize


class ServeSettings(Settings):
    """The server. It answers this machine alone unless `host` says otherwise, and then only with a key."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; any but this machine's own needs an api_key."
    )
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    api_key: str | None = Field(
        default=None,
        min_length=8,
        description="The key that requests must bring (Authorization: Bearer KEY); null asks for none.",
    )
    name: str | None = Field(default=None, description="The model's name in the API; null takes the folder's name.")
    adapters: dict[str, Path] = Field(
        default={},
        description="Adapters over the model by the names that requests give as `model`: adapters.poet=PATH.",
    )
    quantize: Quantize | None = Field(default=None, description=QUANTIZE)
    template: str | None = Field(
        default=None, description="Chat template by name (chatml, baichuan2, ...), for a model that brings none."
    )
    max_tokens: int = Field(default=1024, ge=1, description="The longest answer where a request does not say.")
    queue: int = Field(
        default=64, ge=0, description="Answers that may wait beyond those being written; more are refused (429)."
    )
    max_body: int = Field(
        default=1_000_000, ge=1, description="The largest request in bytes; larger ones are refused (413)."
    )

    @model_validator(mode="after")
    def _key_for_others(self) -> ServeSettings:
        if not self.loopback and self.api_key is None:
            raise ValueError(f"host {self.host} lets other machines in: set api_key, or host to 127.0.0.1.")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
