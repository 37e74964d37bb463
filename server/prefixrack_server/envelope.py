"""The envelope of a predict request: bytes to inputs and parameters, and outputs back to bytes. Knows no adapter.

Hot path: one pass of the standard library's JSON reader (lone surrogates get through and become the fault of their
input), a check by hand instead of a model, one write at the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sized
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from prefixrack.errors import Fault, InvalidRequest, MalformedJson, PayloadTooLarge, TooManyInputs
from prefixrack.types import AdapterRef, Parameters
from prefixrack.validation import Problem, first_problem
from prefixrack_adapters.tasks import as_inputs

MAX_ADAPTERS = 256
MAX_ROUTING_KEY_LEN = 256
MAX_SHOWN = 40
JSON_KINDS = {
    str: "string",
    list: "list",
    dict: "object",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}
DEFAULTS = Parameters()
Fields = TypeVar("Fields", bound=BaseModel)
BULK_WAY = "send them as JSON Lines (Content-Type: application/jsonl, one input a line)"


class Envelope(NamedTuple):
    inputs: list[Any]
    parameters: Parameters
    num_bytes: int
    routing_key: str | None = None


class FanOutEnvelope(NamedTuple):
    adapters: list[str]
    envelope: Envelope


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """A number beyond a float's range would become infinity, which no answer can repeat."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range: numbers up to 1.7e308 are allowed")
    return number


_ENCODER = msgspec.json.Encoder()
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The raw body. Raises PayloadTooLarge as soon as it is clear that the body is longer than `max_bytes`."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(announced, max_bytes)
    chunks: list[bytes] = []
    num_bytes = 0
    is_whole = False
    while not is_whole:  # what `request.stream()` does, but for a generator's time
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        is_whole = not message.get("more_body")
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _too_large(f"more than {max_bytes}", max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(seen: str, max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body has {seen} bytes, allowed are {max_bytes}: send fewer inputs in one request, or {BULK_WAY}"
    )


def parse_json(body: bytes) -> Any:
    """Raises MalformedJson with the place of the first mistake, never with the text itself."""
    try:
        return _DECODER.decode(body.decode("utf-8", "surrogatepass"))
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"the body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            'send {"inputs": …, "parameters": {…}}'
        ) from None
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8 (byte {error.start}): encode the JSON as UTF-8") from None
    except RecursionError:
        raise MalformedJson("the body is nested too deeply: the shapes of inputs are listed at /docs") from None
    except ValueError as error:
        raise MalformedJson(f"the body is not valid JSON: {error}") from None


def parse_predict(body: bytes, max_inputs: int) -> Envelope:
    """Body of `POST /v1/{adapter}/predict`. Raises MalformedJson, InvalidRequest, TooManyInputs."""
    document = json_object(parse_json(body), {"inputs", "parameters", "routing_key"})
    return _envelope(document, len(body), max_inputs)


def parse_fan_out(body: bytes, max_inputs: int, max_bytes: int) -> FanOutEnvelope:
    """Body of `POST /v1/predict`. Raises MalformedJson, InvalidRequest, TooManyInputs, PayloadTooLarge."""
    document = json_object(parse_json(body), {"adapters", "inputs", "parameters", "routing_key"})
    adapters = document.get("adapters")
    if not isinstance(adapters, list) or not all(isinstance(ref, str) for ref in adapters):
        raise InvalidRequest('`adapters` must be a list of names, e.g. {"adapters": ["intent", "ner@3"], "inputs": …}')
    if not 1 <= len(adapters) <= MAX_ADAPTERS:
        raise InvalidRequest(f"`adapters` has {len(adapters)} entries, allowed are 1 to {MAX_ADAPTERS}")
    fan_out = FanOutEnvelope(list(dict.fromkeys(adapters)), _envelope(document, len(body), max_inputs))
    _check_fan_out(fan_out, max_inputs, max_bytes)
    return fan_out


def _check_fan_out(fan_out: FanOutEnvelope, max_inputs: int, max_bytes: int) -> None:
    """Every adapter tokenises every input: the limits hold for what the adapters see together."""
    num_adapters, num_inputs = len(fan_out.adapters), len(fan_out.envelope.inputs)
    if num_adapters * num_inputs > max_inputs:
        raise TooManyInputs(
            f"the request has {num_inputs} inputs for each of {num_adapters} adapters, allowed are {max_inputs} for "
            "all adapters together: send fewer inputs or name fewer adapters"
        )
    if num_adapters > 1 and num_adapters * fan_out.envelope.num_bytes > max_bytes:
        raise PayloadTooLarge(
            f"the body has {fan_out.envelope.num_bytes} bytes for each of {num_adapters} adapters, allowed are "
            f"{max_bytes} for all adapters together: send shorter inputs or name fewer adapters"
        )


def _envelope(document: Mapping[str, Any], num_bytes: int, max_inputs: int) -> Envelope:
    if "inputs" not in document:
        raise InvalidRequest('the body has no `inputs`: send {"inputs": one input or a list of them}')
    check_inputs(inputs := as_inputs(document["inputs"]), max_inputs)
    return Envelope(
        inputs, parse_parameters(document.get("parameters")), num_bytes, _routing_key(document.get("routing_key"))
    )


def check_inputs(inputs: Sized, max_inputs: int) -> None:
    """Raises InvalidRequest for none, TooManyInputs for more than a request may have."""
    if not inputs:
        raise InvalidRequest("`inputs` is an empty list: send at least one input")
    if len(inputs) > max_inputs:
        raise TooManyInputs(
            f"the request has {len(inputs)} inputs, allowed are {max_inputs}: split them up, or {BULK_WAY}"
        )


def check_routing_key(key: str) -> str:
    """Raises InvalidRequest for one that is longer than allowed, or empty."""
    if not 1 <= len(key) <= MAX_ROUTING_KEY_LEN:
        raise InvalidRequest(
            f"the routing key has {len(key)} characters, allowed are 1 to {MAX_ROUTING_KEY_LEN}: send an id of the "
            "caller"
        )
    return key


def _routing_key(key: Any) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str):
        raise InvalidRequest("`routing_key` must be a string, such as a user's id: the same goes to the same version")
    return check_routing_key(key)


def json_object(document: Any, fields: Collection[str]) -> Mapping[str, Any]:
    """Raises InvalidRequest where it is none, or has another field than `fields`."""
    allowed = ", ".join(sorted(fields))
    if not isinstance(document, dict):
        raise InvalidRequest(f"the body is a JSON {_json_kind(document)}, an object is needed with {allowed}")
    unknown = [name for name in document if name not in fields]
    if unknown:
        raise InvalidRequest(f"unknown field {unknown[0][:40]!a}: allowed are {allowed}")
    return document


def _json_kind(value: Any) -> str:
    return JSON_KINDS.get(type(value), "value")


def parse_parameters(document: Any) -> Parameters:
    """Raises InvalidRequest for a parameter that does not exist or has a value out of range."""
    if not document and (document is None or isinstance(document, dict)):
        return DEFAULTS
    if not isinstance(document, dict):
        raise InvalidRequest(f"`parameters` is a JSON {_json_kind(document)}, an object is needed")
    return parse_fields(Parameters, document)


def parse_fields(kind: type[Fields], document: Mapping[str, Any]) -> Fields:
    """Raises InvalidRequest for a field that does not exist or has a value out of range."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest(_told(error, kind)) from None


def _told(error: ValidationError, kind: type[BaseModel]) -> str:
    problem = first_problem(error)
    name = ascii(problem.place[:40])
    if problem.kind == "extra_forbidden":
        return f"unknown parameter {name}: allowed are {', '.join(kind.model_fields)}"
    return f"parameter {name}: {problem.sentence}{seen(problem)}"


def seen(problem: Problem) -> str:
    """The value at fault, as the end of a message that goes to the caller.

    Numbers and what stands where a keyword is asked for are shown; of anything else, which may be an input, the kind.
    """
    value = problem.seen
    if problem.kind == "missing":
        return ""
    if isinstance(value, int | float | None) or (isinstance(value, str) and problem.kind == "literal_error"):
        return f"; seen {json.dumps(value)[:MAX_SHOWN]}"
    return f"; seen a JSON {_json_kind(value)}"


def error_json(fault: Fault) -> dict[str, Any]:
    return {"error": {"code": fault.code, "message": fault.detail}}


def adapter_json(adapter: AdapterRef) -> dict[str, Any]:
    return {"name": adapter.name, "version": adapter.version, "digest": adapter.digest}


def to_json(document: Any) -> bytes:
    """ASCII JSON: a surrogate in an echoed id cannot break it. A NaN would be our own mistake and raises ValueError.

    msgspec takes a tenth of the standard library's time, but escapes nothing and writes null for NaN: where its text
    has either, the standard library writes or refuses it.
    """
    with suppress(UnicodeEncodeError):
        text = _ENCODER.encode(document)
        if text.isascii() and b"null" not in text:
            return text
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode("ascii")
