"""From command-line arguments to the inputs of a predict request. Pure but for reading the lines it is given."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from prefixrack.types import AnyOutput, BulkLine, FailedOutput, InputError


@dataclass(frozen=True, slots=True)
class GivenInput:
    """What the user typed; exactly one way of giving inputs is allowed at a time."""

    texts: Sequence[str] = ()
    pair: str | None = None
    question: str | None = None
    context: str | None = None
    choices: Sequence[str] = ()
    json: Sequence[str] = ()

    def inputs(self) -> Any:
        """One input, or a list of them for several texts. Raises BadParameter, naming what is missing."""
        if self.json:
            return self._from_json()
        if self.question is not None or self.context is not None:
            return self._question()
        if self.pair is not None or self.choices:
            return self._single_text()
        if not self.texts:
            raise typer.BadParameter("nothing to predict: give a text, --question with --context, --input or --file")
        return self.texts[0] if len(self.texts) == 1 else list(self.texts)

    def _from_json(self) -> Any:
        if self != GivenInput(json=self.json):
            raise typer.BadParameter("--input is a whole input: give no texts, questions or choices besides")
        inputs = [_parsed(text) for text in self.json]
        return inputs[0] if len(inputs) == 1 else inputs

    def _question(self) -> dict[str, Any]:
        if self.question is None or self.context is None or self.texts or self.pair is not None or self.choices:
            raise typer.BadParameter("a question needs --question and --context, and nothing besides")
        return {"question": self.question, "context": self.context}

    def _single_text(self) -> dict[str, Any]:
        if len(self.texts) != 1 or (self.pair is not None and self.choices):
            raise typer.BadParameter(f"{len(self.texts)} texts: --pair or --choice goes with exactly one text")
        if self.pair is not None:
            return {"text": self.texts[0], "text_pair": self.pair}
        return {"text": self.texts[0], "choices": list(self.choices)}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(
            f"{text[:80]!r} is no JSON ({error}): --input takes what `prefixrack show` has as the example"
        ) from None


@dataclass(frozen=True, slots=True)
class FileLine:
    """One line of a JSON Lines file: an input, or what is wrong with the line."""

    index: int
    id: Any = None
    given: Any = None
    error: InputError | None = None


def parse_line(index: int, line: str) -> FileLine:
    """`{"id"?, "inputs": X}`, or X itself: a string or an object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = f'line {index + 1} is no JSON ({error}): write one input a line, as in "a text", with the quotes'
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
        yield line, _answer(line, output)
    yield from _broken_ones(waiting)


def parse_parameter(text: str) -> tuple[str, Any]:
    """`top_k=3`: the value is JSON where it can be, else the text itself."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE, as in top_k=3")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


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


def _answer(line: FileLine, output: AnyOutput) -> BulkLine:
    if isinstance(output, FailedOutput):
        return BulkLine(index=line.index, id=line.id, error=output.error)
    return BulkLine(index=line.index, id=line.id, output=output)
