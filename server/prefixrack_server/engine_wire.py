"""The wire between front ends and an engine in its own process: frames of MessagePack on a Unix-domain socket.

msgspec reads each frame into the declared types and into nothing else, so no byte on the socket can name code to run;
and it takes a fifth of pickle's time for messages of this size. Arrays travel as their bytes, copied once on each side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from prefixrack_server.messages import BundleRef, EngineStats, ResidencyState, RowDone, RowWork

HEADER_BYTES: Final = 4
# asyncio's reader pauses the socket at twice this; a frame of logits is often larger than its default.
BUFFER_BYTES: Final = 1 << 20

M = TypeVar("M")


class Message(msgspec.Struct, tag=True, array_like=True):
    """One frame. The first element of the array is the class's name."""


class Submit(Message):
    work: list[RowWork]


class Cancel(Message):
    row_ids: list[int]


class Keep(Message):
    bundle: BundleRef
    keep: bool


class Forget(Message):
    digest: str


class AskResidency(Message):
    """Answered by a `TellResidency` of the same number."""

    number: int
    digest: str


class Answers(Message):
    """Rows of one pack, and the engine's state after it."""

    rows: list[RowDone]
    stats: EngineStats


class Pulse(Message):
    """The engine's state; sent at once to who connects, then regularly."""

    stats: EngineStats


class TellResidency(Message):
    number: int
    state: ResidencyState


def _encode_array(array: Any) -> tuple[tuple[int, ...], memoryview]:
    if not isinstance(array, np.ndarray):
        raise NotImplementedError(f"{type(array).__name__} has no place in a message")
    return array.shape, np.ascontiguousarray(array, np.float32).data.cast("B")


def _decode_array(_: type, parts: Any) -> NDArray[np.float32]:
    shape, content = parts
    return np.frombuffer(content, np.float32).reshape(shape)


ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_encode_array)
TO_ENGINE: Final = msgspec.msgpack.Decoder(Submit | Cancel | Keep | Forget | AskResidency)
FROM_ENGINE: Final = msgspec.msgpack.Decoder(Answers | Pulse | TellResidency, dec_hook=_decode_array)


def frame(message: Message) -> bytes:
    content = ENCODER.encode(message)
    return len(content).to_bytes(HEADER_BYTES) + content


async def read_messages(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[M]) -> AsyncIterator[M]:
    """Until the other side is gone, whether or not in the middle of a frame. Raises msgspec.DecodeError."""
    try:
        while True:
            header = await reader.readexactly(HEADER_BYTES)
            yield decoder.decode(await reader.readexactly(int.from_bytes(header)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
