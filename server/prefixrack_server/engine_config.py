"""Settings of the engine. Knows no torch, so that the server's configuration can be read without it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]

# A pack's tokens until they are measured, or where they cannot be.
USUAL_PACK_TOKENS = 2048
# While several tenants share a CPU, for each thread that computes in float32: what a pack costs whatever its size is
# worth 20 to 30 tokens of computing, so packs of so many lose an eighth to it, and nobody waits long for one.
SHARED_TOKENS_PER_THREAD = 144
# Of `max_pack_tokens`, while twice as many tokens wait for a CPU: its threads wait for each other less often then.
TIMES_DEEP = 2
# Of host memory for adapters, where it is another memory than the device's.
HOST_BYTES = 4 << 30


class EngineConfig(BaseModel):
    """How much goes into one pack, how much stays on the device and beside it, and how patient the engine is.

    `max_pack_tokens` "auto" is measured by the engine's thread when it starts; None is the usual number. What a pack is
    filled up to is `shared_pack_tokens` while several tenants want some of the engine, `deep_pack_tokens` while twice
    as many tokens wait.
    `num_threads` None is chosen when a server starts (`compute_threads.py`), and torch's own elsewhere.
    `retry_load_after_s` is how long a failed load answers for itself before new demand tries again; `drain_timeout_s`
    is how long `stop()` goes on working for what is queued. `max_silence_s` is how long its loop may take for one turn,
    the longest pack included, before the server says that it hangs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pack_tokens: Annotated[int, Field(ge=1)] | Auto | None = None
    max_pack_rows: Annotated[int, Field(ge=1)] | Auto = "auto"
    shared_pack_tokens: Annotated[int, Field(ge=1)] | Auto = "auto"
    deep_pack_tokens: Annotated[int, Field(ge=0)] | Auto = "auto"
    resident_bytes: Annotated[int, Field(ge=1)] = 1 << 30
    host_bytes: Annotated[int, Field(ge=0)] | Auto = "auto"
    num_loaders: Annotated[int, Field(ge=1, le=64)] = 4
    num_threads: Annotated[int, Field(ge=1)] | None = None
    retry_load_after_s: Annotated[float, Field(ge=0)] = 2.0
    drain_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    max_silence_s: Annotated[float, Field(gt=0)] = 10.0

    def on(self, device: str) -> EngineConfig:
        """With what the device decides: on a GPU packs are measured unless their size is set. What is computed for that
        compiles and records what the first requests would wait for; on a CPU it says little beside what else runs."""
        if device == "cpu" or self.max_pack_tokens is not None:
            return self
        return self.model_copy(update={"max_pack_tokens": "auto"})

    @property
    def first_pack_tokens(self) -> int:
        """`max_pack_tokens`, or what it is until it is measured."""
        return self.max_pack_tokens if isinstance(self.max_pack_tokens, int) else USUAL_PACK_TOKENS

    def host_budget_bytes(self, has_own_memory: bool) -> int:
        """`host_bytes`; where it is "auto", none if the device has no memory of its own but computes in the host's."""
        if self.host_bytes == "auto":
            return HOST_BYTES if has_own_memory else 0
        return self.host_bytes

    def pack_rows(self, is_on_gpu: bool) -> int:
        """`max_pack_rows`; where it is "auto", what does not cut packs of natural lengths."""
        if self.max_pack_rows == "auto":
            return 1024 if is_on_gpu else 256
        return self.max_pack_rows

    def shared_tokens(self, is_on_gpu: bool, num_threads: int, itemsize: int) -> float:
        """`shared_pack_tokens`; where it is "auto", nothing but its time bounds a pack on a GPU. Types of half the size
        are computed twice as fast, while the rest of a pack's cost stays."""
        if self.shared_pack_tokens == "auto":
            return math.inf if is_on_gpu else SHARED_TOKENS_PER_THREAD * num_threads * 4 // itemsize
        return self.shared_pack_tokens

    def deep_tokens(self, is_on_gpu: bool, max_pack_tokens: int) -> int:
        """`deep_pack_tokens`; where it is "auto", no more than ever on a GPU, whose packs are recorded for a size."""
        if self.deep_pack_tokens == "auto":
            return 0 if is_on_gpu else TIMES_DEEP * max_pack_tokens
        return self.deep_pack_tokens
