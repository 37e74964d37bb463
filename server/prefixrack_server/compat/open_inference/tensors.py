"""The protocol's tensors, as JSON and as binary data: bytes to strings, values to bytes. Knows no adapter.

In binary form a BYTES tensor is, for each element, its length as a little-endian uint32 and its bytes; numbers are
little-endian. The binary data of all tensors follows the JSON, in its order; a header says where the JSON ends.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from prefixrack.errors import InvalidRequest

NUMBERS: Final = {"FP32": "<f4", "INT64": "<i8"}
LENGTH: Final = struct.Struct("<I")


class InputParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    binary_data_size: int | None = Field(default=None, ge=0)


class InputTensor(BaseModel):
    """As it came."""

    name: str
    shape: list[int]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = None


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """`values` are strings for BYTES; numbers may be nested as `shape` says."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: Sequence[Any]


class BinaryData:
    """What follows the JSON of a request; read once, from front to end."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._position = 0

    def take(self, num_bytes: int, name: str) -> memoryview:
        """Raises InvalidRequest where fewer are left."""
        left = len(self._content) - self._position
        if num_bytes > left:
            raise InvalidRequest(
                f"tensor {name[:40]!a} has binary_data_size {num_bytes}, but {left} bytes are left behind the JSON: "
                "check the sizes and the header Inference-Header-Content-Length"
            )
        start, self._position = self._position, self._position + num_bytes
        return self._content[start : self._position]

    def check_empty(self) -> None:
        """Raises InvalidRequest where something was not taken."""
        left = len(self._content) - self._position
        if left:
            raise InvalidRequest(
                f"{left} bytes behind the JSON belong to no tensor: give each binary tensor its binary_data_size"
            )


def read_strings(tensor: InputTensor, binary: BinaryData) -> list[str]:
    """The elements of a BYTES tensor of shape [n] or [n, 1]. Raises InvalidRequest."""
    name = tensor.name
    if tensor.datatype != "BYTES":
        raise InvalidRequest(f"tensor {name[:40]!a} has datatype {tensor.datatype[:20]!a}, BYTES is needed: send text")
    num_elements = _num_elements(tensor)
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise InvalidRequest(f"tensor {name[:40]!a} needs either `data` or the parameter `binary_data_size`")
    strings = _json_strings(tensor) if size is None else _binary_strings(binary.take(size, name), name)
    if len(strings) != num_elements:
        raise InvalidRequest(
            f"tensor {name[:40]!a} has shape {tensor.shape} and {len(strings)} elements: make them agree"
        )
    return strings


def _num_elements(tensor: InputTensor) -> int:
    shape = tensor.shape
    if len(shape) not in (1, 2) or min(shape) < 0 or shape[1:] not in ([], [1]):
        raise InvalidRequest(
            f"tensor {tensor.name[:40]!a} has shape {shape[:8]}, one text an input is needed: [n] or [n, 1]"
        )
    return math.prod(shape)


def _json_strings(tensor: InputTensor) -> list[str]:
    data = tensor.data
    if isinstance(data, list) and all(isinstance(row, list) for row in data):
        data = [element for row in data for element in row]
    if not isinstance(data, list) or not all(isinstance(element, str) for element in data):
        raise InvalidRequest(f"the data of tensor {tensor.name[:40]!a} must be a list of strings")
    return data


def _binary_strings(content: memoryview, name: str) -> list[str]:
    strings, position = list[str](), 0
    while position < len(content):
        start = position + LENGTH.size
        end = start + LENGTH.unpack_from(content, position)[0] if start <= len(content) else start
        if end > len(content):
            raise InvalidRequest(f"element {len(strings)} of tensor {name[:40]!a} is cut off: check its length prefix")
        strings.append(_text(content[start:end], len(strings), name))
        position = end
    return strings


def _text(content: memoryview, index: int, name: str) -> str:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"element {index} of tensor {name[:40]!a} is not UTF-8 (byte {error.start}): encode the text as UTF-8"
        ) from None


def write_json(tensor: OutputTensor) -> dict[str, Any]:
    """With its values, flattened in row-major order."""
    is_nested = len(tensor.shape) > 1
    data = [value for row in tensor.values for value in row] if is_nested else list(tensor.values)
    return {**_head(tensor), "data": data}


def write_binary(tensor: OutputTensor) -> tuple[dict[str, Any], bytes]:
    """The JSON that announces the values, and their bytes."""
    content = _bytes_of(tensor)
    return {**_head(tensor), "parameters": {"binary_data_size": len(content)}}, content


def _head(tensor: OutputTensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _bytes_of(tensor: OutputTensor) -> bytes:
    if tensor.datatype == "BYTES":
        elements = [value.encode("utf-8") for value in tensor.values]
        return b"".join(part for element in elements for part in (LENGTH.pack(len(element)), element))
    return np.asarray(tensor.values, dtype=NUMBERS[tensor.datatype]).tobytes()
