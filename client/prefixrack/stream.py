"""JSON Lines up, JSON Lines down, neither held as a whole: how lines are written and read. Sends nothing itself."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

import httpx2
from pydantic import ValidationError

from prefixrack.errors import APIConnectionError
from prefixrack.lines import Line
from prefixrack.requests import ApiRequest, segment
from prefixrack.types import BulkLine

CONTENT_TYPE = "application/jsonl"
CHUNK_BYTES = 64 * 1024


class LineStream:
    """One exchange: counts the lines that went out, so that an answer that ends early is noticed."""

    def __init__(self, adapter: str, parameters: Mapping[str, Any]) -> None:
        self._parameters = {name: value for name, value in parameters.items() if value is not None}
        self._num_sent = self._num_answered = 0
        headers = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
        self.request = ApiRequest(
            "POST", f"/v1/{segment(adapter)}/predict", headers=headers, can_retry=False, is_computed=True
        )

    def encoded(self, inputs: Iterable[Any]) -> Iterator[bytes]:
        """Chunks of lines; takes no more from the iterable than the next chunk needs."""
        gathered = bytearray()
        for given in inputs:
            gathered += self._encode(given)
            if len(gathered) >= CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
        yield bytes(gathered)

    async def aencoded(self, inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[bytes]:
        """The same for an iterable of either kind; from an asynchronous one each line is sent as it comes."""
        if isinstance(inputs, AsyncIterable):
            async for given in inputs:
                yield self._encode(given)
            return
        for chunk in self.encoded(inputs):
            yield chunk

    def decoded(self, text: str, response: httpx2.Response) -> BulkLine:
        try:
            line = BulkLine.model_validate_json(text)
        except ValidationError as error:
            raise APIConnectionError(
                f"{response.request.url} answered a line that is none of an answer: {text[:80]!r}"
            ) from error
        self._num_answered += 1
        return line

    def check_end(self, response: httpx2.Response) -> None:
        if self._num_answered != self._num_sent:
            raise APIConnectionError(
                f"{response.request.url} ended after {self._num_answered} answers to {self._num_sent} lines: "
                "send the rest again"
            )

    def _encode(self, given: Any) -> bytes:
        self._num_sent += 1
        return (given if isinstance(given, Line) else Line(given)).encoded(self._parameters)
