"""A file of what adapters answered to each example of an evaluation, a JSON line each. Knows no scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixrack.errors import InvalidRequest
from prefixrack.types import output_json
from prefixrack_adapters.single_files import check_place, replaced

if TYPE_CHECKING:
    from prefixrack_adapters.commands.score_tables import Measured
    from prefixrack_adapters.scoring import Outputs
    from prefixrack_adapters.training.data import Example

KINDS = (".jsonl", ".ndjson")


def check_answer_file(path: Path, data: str) -> None:
    """Raises InvalidRequest before anything is measured for a file that could not be written."""
    check_place(path, KINDS, "file of predictions")
    if path.resolve() == Path(data).resolve():
        raise InvalidRequest(f"{path} is the data that is measured on: give another file as --predictions")


def write_answers(path: Path, examples: Sequence[Example], measured: Sequence[Measured]) -> None:
    """Replace the file in one step. Raises InvalidRequest where it cannot be written; then it is as it was."""
    # Half a character, which an input may hold, has no UTF-8: its escape is what JSON has for it.
    with replaced(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for line in _lines(examples, measured):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(examples: Sequence[Example], measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    for index, example in enumerate(examples):
        answers = [_answer(one, index, len(examples)) for one in measured]
        yield {
            "place": example.place,
            "input": example.input,
            "target": asdict(example.target) if is_dataclass(example.target) else example.target,
            "answers": answers,
        }


def _answer(measured: Measured, index: int, num_examples: int) -> dict[str, Any]:
    """`right` is there where an answer is right or wrong as a whole; a pair of texts has an output for each."""
    own = _of_example(measured.outputs, index, num_examples)
    outputs = [output_json(output) for output in own]
    answer = {"adapter": measured.name, "output": outputs[0] if len(outputs) == 1 else outputs}
    is_right = measured.result.is_right
    return answer if is_right is None else answer | {"right": bool(is_right[index])}


def _of_example(outputs: Outputs, index: int, num_examples: int) -> Outputs:
    share = len(outputs) // num_examples
    return outputs[index * share : (index + 1) * share]
