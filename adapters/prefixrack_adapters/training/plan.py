"""What a study tries: swept settings and seeds, read from options. Knows the settings there are; no torch, no runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from prefixrack.errors import InvalidRequest
from prefixrack.validation import first_problem
from prefixrack_adapters.training.settings import TrainSettings

# Seeds have an option of their own, a task belongs to its data, and examples are only written down.
NOT_SWEPT = ("seed", "task", "num_examples")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried: every combination of the swept settings' values, each with every seed."""

    sweep: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    def combinations(self) -> list[dict[str, Any]]:
        return [dict(zip(self.sweep, values, strict=True)) for values in product(*self.sweep.values())]

    @property
    def num_runs(self) -> int:
        return len(self.combinations()) * len(self.seeds)

    def asked(self) -> dict[str, Any]:
        return {"sweep": {name: list(values) for name, values in self.sweep.items()}, "seeds": list(self.seeds)}


def read_seeds(text: str) -> list[int]:
    """Numbers with commas between. Raises InvalidRequest."""
    seeds = [_typed("seed", part, f"--seeds {text}") for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise InvalidRequest(f"--seeds {text}: each seed can be given once")
    return seeds


def read_sweep(options: Sequence[str]) -> dict[str, list[Any]]:
    """Typed values by setting, of options such as `learning_rate=1e-3,1e-2`. Raises InvalidRequest with what may be."""
    sweep: dict[str, list[Any]] = {}
    for option in options:
        left, _, right = option.partition("=")
        name = left.strip().replace("-", "_")
        if name not in sweepable():
            raise InvalidRequest(f"--sweep {option}: {name!r} cannot be swept; {', '.join(sweepable())} can")
        values = [_typed(name, value, f"--sweep {option}") for value in right.split(",")]
        if name in sweep or len(set(values)) < len(values):
            raise InvalidRequest(f"--sweep {option}: each setting, and each of its values, can be given once")
        sweep[name] = values
    return sweep


def sweepable() -> list[str]:
    """Settings that are a number or a choice of names."""
    fields = TrainSettings.model_fields.items()
    return [name for name, field in fields if name not in NOT_SWEPT and _is_plain(field.annotation)]


def _is_plain(annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_plain(inner[0])
    if origin in (Union, UnionType):
        return all(_is_plain(one) for one in inner if one is not type(None))
    return origin is Literal or annotation in (int, float)


def _typed(name: str, value: str, option: str) -> Any:
    """The value as the setting has it; whether it agrees with the others, each run finds out."""
    field = TrainSettings.model_fields[name]
    kind: Any = Annotated[field.annotation, field]
    try:
        return TypeAdapter(kind).validate_python(value.strip())
    except ValidationError as error:
        raise InvalidRequest(f"{option}: {first_problem(error).sentence}; seen {value!r}") from None
