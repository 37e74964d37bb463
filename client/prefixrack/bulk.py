"""Many inputs as batches: how they are cut, and what a refused batch means for its inputs. Pure; sends nothing."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from prefixrack.errors import APIStatusError, PayloadTooLargeError
from prefixrack.responses import failed_outputs, failure_of
from prefixrack.types import FailedOutput

Batch = list[Any]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What to do about a refused batch: `outputs` are its answer, or `smaller` batches are to be sent instead."""

    outputs: list[FailedOutput] = field(default_factory=list)
    smaller: list[Batch] = field(default_factory=list)


def check_sizes(concurrency: int, batch_size: int) -> None:
    for name, value in (("concurrency", concurrency), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give 1 or more")


def batches(inputs: Iterable[Any], size: int) -> Iterator[Batch]:
    """Lists of `size` inputs, the last one shorter; takes no more from the iterable than the next batch needs."""
    source = iter(inputs)
    while batch := list(islice(source, size)):
        yield batch


async def abatches(inputs: Iterable[Any] | AsyncIterable[Any], size: int) -> AsyncIterator[Batch]:
    """The same for an iterable of either kind."""
    if not isinstance(inputs, AsyncIterable):
        for batch in batches(inputs, size):
            yield batch
        return
    gathered: Batch = []
    async for item in inputs:
        gathered.append(item)
        if len(gathered) == size:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def recover(error: APIStatusError, batch: Batch) -> Recovery:
    """Turn a refusal that is the inputs' fault into outputs. Raises the error when it is not their fault."""
    if isinstance(error, PayloadTooLargeError):
        return _shrink(error, batch)
    failures = failed_outputs(error, len(batch))
    if failures is None:
        raise error
    return Recovery(outputs=failures)


def _shrink(error: PayloadTooLargeError, batch: Batch) -> Recovery:
    if len(batch) == 1:
        return Recovery(outputs=[failure_of(error)])
    middle = len(batch) // 2
    return Recovery(smaller=[batch[:middle], batch[middle:]])
