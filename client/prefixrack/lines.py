"""JSON Lines of inputs and of answers: parsed one by one, a broken line fails alone. Pure; reads what it is given."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefixrack.requests import encode_json
from prefixrack.types import AnyOutput, BulkLine, FailedOutput, InputError


@dataclass(frozen=True, slots=True)
class Line:
    """One input with an id that comes back beside its answer, as a line `{"id", "inputs"}` has it."""

    inputs: Any
    id: str | int | float | None = None

    def encoded(self, parameters: Mapping[str, Any]) -> bytes:
        """The line as the server reads it."""
        document = {"inputs": self.inputs}
        document |= {} if self.id is None else {"id": self.id}
        return encode_json(document | ({"parameters": dict(parameters)} if parameters else {})) + b"\n"


@dataclass(frozen=True, slots=True)
class FileLine:
    """One line of a JSON Lines file: an input, or what is wrong with the line."""

    index: int
    id: Any = None
    given: Any = None
    error: InputError | None = None


def parse_line(index: int, line: str | bytes) -> FileLine:
    """`{"id"?, "inputs": X}`, or X itself: a string or an object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        # Of a line that is taken alone its own number would only confuse.
        problem = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        message = f'line {index + 1} is no JSON ({problem}): write one input a line, as in "a text", with the quotes'
        return FileLine(index, error=InputError(code="malformed_json", message=message))
    if isinstance(value, dict) and "inputs" in value:
        return FileLine(index, id=value.get("id"), given=value["inputs"])
    return FileLine(index, given=value)


def predict_lines(
    lines: Iterable[str], predict: Callable[[Iterator[Any]], Iterator[AnyOutput]]
) -> Iterator[tuple[FileLine, BulkLine]]:
    """Each line with its answer, in order; a broken line fails alone. Holds what `predict` reads ahead, no more."""
    waiting: deque[FileLine] = deque()
    for output in predict(_good_inputs(lines, waiting)):
        yield from _broken_ones(waiting)
        line = waiting.popleft()
        yield line, answer_of(line, output)
    yield from _broken_ones(waiting)


def answer_of(line: FileLine, output: AnyOutput) -> BulkLine:
    if isinstance(output, FailedOutput):
        return BulkLine(index=line.index, id=line.id, error=output.error)
    return BulkLine(index=line.index, id=line.id, output=output)


def _good_inputs(lines: Iterable[str], waiting: deque[FileLine]) -> Iterator[Any]:
    """Good lines' inputs; every line is put on `waiting` in order as it is read."""
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        parsed = parse_line(index, line)
        waiting.append(parsed)
        if parsed.error is None:
            yield parsed.given


def _broken_ones(waiting: deque[FileLine]) -> Iterator[tuple[FileLine, BulkLine]]:
    while waiting and waiting[0].error is not None:
        line = waiting.popleft()
        yield line, BulkLine(index=line.index, id=line.id, error=line.error)
