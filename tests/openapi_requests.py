"""Requests made from an API's own description by schemathesis, of one operation after the other. Knows no server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

# What is there when the requests begin; half of them are about it, as far as they name it in their path.
THERE: Mapping[str, Any] = {
    "ref": "intent",
    "name": "intent",
    "model": "intent",
    "alias": "production",
    "tenant": "default",
}

Judge = Callable[[Any, Any], None]  # of a request and its answer


def operations_of(document: dict[str, Any]) -> list[Any]:
    schema = schemathesis.openapi.from_dict(document)
    return [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]


def send_requests(
    operation: Any, base_url: str, num_requests: int, judge: Judge, *, version: int, seed: int | None = None
) -> None:
    """Raises what `judge` does. `version` is one of `intent`; with no seed the requests are always the same ones."""
    there = {**THERE, "number": version, "version": str(version)}
    fuzz = settings(
        max_examples=num_requests,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @fuzz
    @given(case=operation.as_strategy(), is_there=st.booleans())
    def call(case: Any, is_there: bool) -> None:
        if is_there:
            case.path_parameters.update({name: there[name] for name in there if name in case.path_parameters})
        judge(case, case.call(base_url=base_url))

    (call if seed is None else seeded(seed)(call))()
