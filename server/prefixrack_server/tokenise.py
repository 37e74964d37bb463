"""Tokenising: inputs become rows, by the task of the adapter version. Knows digests; no HTTP, no tensors, no queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from prefixrack.errors import InputFault
from prefixrack.types import Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask, Prepared, build_task
from prefixrack_adapters.tokenizer import BackboneTokenizer

MAX_TASKS = 4096
# Work for more than this is done in a thread; below, handing it over costs more than it takes.
SMALL_INPUTS = 16
SMALL_BYTES = 8 * 1024

Result = TypeVar("Result")


class Tokeniser:
    """Task objects by digest (the least recently used go first), and the threads that big requests are worked on in."""

    def __init__(self, spec: BackboneSpec, tokenizer: BackboneTokenizer, num_threads: int = 2) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._tasks: OrderedDict[str, AnyTask] = OrderedDict()
        self._limiter = anyio.CapacityLimiter(num_threads)

    def task(self, digest: str, manifest: Manifest) -> AnyTask:
        task = self._tasks.get(digest)
        if task is None:
            task = self._tasks[digest] = build_task(manifest, self._spec, self._tokenizer)
            if len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)
        else:
            self._tasks.move_to_end(digest)
        return task

    async def prepare(
        self, task: AnyTask, inputs: Sequence[Any], parameters: Parameters, is_big: bool
    ) -> list[Prepared | InputFault]:
        """Rows of every input, or its fault. Raises InvalidRequest where the task cannot use the parameters."""
        return await self.work(is_big, lambda: task.prepare_many(inputs, parameters))

    async def work(self, is_big: bool, function: Callable[[], Result]) -> Result:
        """Run a pure function: a small one here and now, a big one in a thread, so that the loop goes on."""
        if not is_big:
            return function()
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)


def is_big(num_inputs: int, num_bytes: int) -> bool:
    return num_inputs > SMALL_INPUTS or num_bytes > SMALL_BYTES
