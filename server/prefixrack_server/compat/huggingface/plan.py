"""What an API task has to say: which inputs the adapter gets, and how its outputs are answered. Knows no task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from prefixrack.errors import InvalidRequest
from prefixrack.types import Parameters
from prefixrack_adapters.tasks import as_inputs
from prefixrack_server.envelope import json_object

Outputs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """`num_bytes` is set where the inputs have more text than the body: the limit of a body holds for it too."""

    inputs: Sequence[Any]
    parameters: Parameters
    answer: Callable[[Outputs], Any]
    num_bytes: int | None = None


class Options(BaseModel):
    """The `parameters` of an API task. What an adapter cannot do is no field here and is refused by name."""

    model_config = ConfigDict(extra="forbid")


def split(document: Any) -> tuple[Any, Mapping[str, Any]]:
    """Inputs and parameters of a body. Raises InvalidRequest."""
    fields = json_object(document, ("inputs", "parameters"))
    parameters = fields.get("parameters")
    if not isinstance(parameters, dict | None):
        raise InvalidRequest("`parameters` must be a JSON object")
    return fields.get("inputs"), given(parameters or {})


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are null: a client's way of leaving one out."""
    return {name: value for name, value in parameters.items() if value is not None}


def one_or_many(inputs: Any, answers: Sequence[Any]) -> Any:
    """A list where a list came."""
    return answers if isinstance(inputs, list) else answers[0]


def many(inputs: Any) -> list[Any]:
    """Raises InvalidRequest where there are none."""
    if inputs is None:
        raise InvalidRequest('the body has no `inputs`: send {"inputs": …, "parameters": {…}}')
    return as_inputs(inputs)
