"""Settings of the engine. Knows no torch, so that the server's configuration can be read without it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class EngineConfig(BaseModel):
    """How much goes into one pack, how much stays on the device, and how patient the engine is.

    `num_threads` None leaves torch's own choice. `retry_load_after_s` is how long a failed load answers for itself
    before new demand tries again; `drain_timeout_s` is how long `stop()` goes on working for what is queued.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pack_tokens: Annotated[int, Field(ge=1)] = 2048
    max_pack_rows: Annotated[int, Field(ge=1)] = 256
    resident_bytes: Annotated[int, Field(ge=1)] = 1 << 30
    num_loaders: Annotated[int, Field(ge=1, le=64)] = 4
    num_threads: Annotated[int, Field(ge=1)] | None = None
    retry_load_after_s: Annotated[float, Field(ge=0)] = 2.0
    drain_timeout_s: Annotated[float, Field(ge=0)] = 30.0
