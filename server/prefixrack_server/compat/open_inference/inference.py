"""The infer request and its answer: a body to columns of text and wishes, tensors to a body. Knows no adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from prefixrack.errors import InvalidRequest
from prefixrack.types import OffsetUnit, Overlong, Parameters
from prefixrack_server.compat.open_inference.tensors import (
    BinaryData,
    InputTensor,
    OutputTensor,
    read_strings,
    write_binary,
    write_json,
)
from prefixrack_server.envelope import parse_fields, parse_json, to_json

JSON_LEN_HEADER: Final = "Inference-Header-Content-Length"


class OutputParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = None


class OutputWish(BaseModel):
    name: str
    parameters: OutputParameters = OutputParameters()


class InferParameters(BaseModel):
    """`binary_data_output` and `timeout`, in microseconds, are the protocol's; the others are the task's."""

    model_config = ConfigDict(extra="forbid")

    binary_data_output: bool = False
    timeout: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    overlong: Overlong | None = None
    offset_unit: OffsetUnit = "codepoint"
    max_answer_len: Annotated[int, Field(ge=1, le=512)] | None = None
    null_threshold: float | None = None

    def of_task(self, logits: bool) -> Parameters:
        """Those that were sent: a task refuses what it has no use for."""
        sent = self.model_dump(exclude_unset=True, exclude={"binary_data_output", "timeout"})
        return Parameters(**sent, logits=logits)


class InferBody(BaseModel):
    """Other fields are let be: KServe's client adds the model's name."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: list[OutputWish] | None = None
    parameters: InferParameters = InferParameters()

    @property
    def output_names(self) -> list[str] | None:
        return [wish.name for wish in self.outputs] if self.outputs else None

    def is_binary(self, output: str) -> bool:
        wishes = {wish.name: wish.parameters.binary_data for wish in self.outputs or ()}
        wish = wishes.get(output)
        return self.parameters.binary_data_output if wish is None else wish


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`columns` are the input tensors by name, one text for each input."""

    body: InferBody
    columns: Mapping[str, Sequence[str]]
    num_bytes: int


class Content(NamedTuple):
    body: bytes
    headers: Mapping[str, str]


def parse_infer(content: bytes, json_len: str | None) -> InferRequest:
    """`json_len` is the header that says how many bytes are JSON. Raises MalformedJson, InvalidRequest."""
    end = _json_end(content, json_len)
    document = parse_json(content[:end])
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object with inputs")
    body = parse_fields(InferBody, document)
    binary = BinaryData(memoryview(content)[end:])
    columns = {tensor.name: read_strings(tensor, binary) for tensor in body.inputs}
    if len(columns) < len(body.inputs):
        raise InvalidRequest("two input tensors have the same name: send each once")
    binary.check_empty()
    return InferRequest(body, columns, len(content))


def _json_end(content: bytes, json_len: str | None) -> int:
    if json_len is None:
        return len(content)
    if not (json_len.isascii() and json_len.isdigit() and len(json_len) < 12 and int(json_len) <= len(content)):
        raise InvalidRequest(
            f"{JSON_LEN_HEADER} is {json_len[:40]!a}: a number of bytes up to the body's {len(content)} is needed"
        )
    return int(json_len)


def write_infer(body: InferBody, model: Mapping[str, Any], tensors: Sequence[OutputTensor]) -> Content:
    """The answer: JSON, and behind it the data of the tensors that were asked for in binary form."""
    heads, parts = [], []
    for tensor in tensors:
        if body.is_binary(tensor.name):
            head, part = write_binary(tensor)
            parts.append(part)
        else:
            head = write_json(tensor)
        heads.append(head)
    text = to_json({**model, **({} if body.id is None else {"id": body.id}), "outputs": heads})
    if not parts:
        return Content(text, {"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", JSON_LEN_HEADER: str(len(text))}
    return Content(b"".join((text, *parts)), headers)
