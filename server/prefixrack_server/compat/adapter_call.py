"""A prediction that another protocol asked for: the native routes' key, limits, binding and counts. Knows no protocol.

These protocols have no error of one input beside the answers of others: the first faulty input refuses the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import Request

from prefixrack import errors
from prefixrack.types import Parameters
from prefixrack_server.envelope import Envelope, check_inputs
from prefixrack_server.quotas import Allowance
from prefixrack_server.registry.registry import Version
from prefixrack_server.registry.rollouts import Route
from prefixrack_server.request_context import request_id_of
from prefixrack_server.routes.predict import new_call, requested_timeout_s, resolve, routing_key
from prefixrack_server.row_faults import FAULT_OF_CODE
from prefixrack_server.services import services_of


class Answers(NamedTuple):
    """One output for each input, in order; none of them is an error."""

    outputs: Sequence[Mapping[str, Any]]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class AdapterCall:
    """A request bound to `version`."""

    request: Request
    allowance: Allowance
    route: Route
    key: str
    version: Version

    async def predict(
        self, inputs: Sequence[Any], parameters: Parameters, num_bytes: int, timeout_s: float | None = None
    ) -> Answers:
        """Raises every fault of the request as a whole, and that of its first faulty input.

        `num_bytes` is the text of all inputs: a body that makes more of it than a body may have is refused too.
        """
        services, request = services_of(self.request), self.request
        check_inputs(inputs, services.config.limits.max_inputs)
        _check_bytes(num_bytes, services.config.limits.max_body_bytes)
        timeout_s = timeout_s or requested_timeout_s(request, services.config.http)
        call = new_call(request, self.allowance, timeout_s)
        envelope = Envelope(list(inputs), parameters, num_bytes)
        try:
            body = await services.rollouts.predict(self.route, self.key, envelope, call)
        except errors.AllInputsFailed as failed:
            raise first_fault([{"error": error} for error in failed.errors]) or failed from None
        fault = first_fault(body["outputs"])
        if fault is not None:
            raise fault
        return Answers(body["outputs"], body["usage"]["tokens"])


async def bind(request: Request, allowance: Allowance, ref: str, key: str | None = None) -> AdapterCall:
    """Raises the registry's faults. `key` says whose request it is, for a canary, where the header does not.

    The version is chosen here, since an answer's shape can depend on it; the same key chooses the same one again.
    """
    route = await resolve(services_of(request), allowance.principal, ref)
    key = routing_key(request) or key or request_id_of(request.scope)
    return AdapterCall(request, allowance, route, key, route.choose(key)[0])


def _check_bytes(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise errors.PayloadTooLarge(
            f"the request makes inputs of {num_bytes} bytes, allowed are {max_bytes}: send a shorter text, or less to "
            "judge it by"
        )


def first_fault(outputs: Sequence[Mapping[str, Any]]) -> errors.Fault | None:
    """That of the first input that failed, with its place where there are several."""
    for index, output in enumerate(outputs):
        if "error" in output:
            kind = FAULT_OF_CODE.get(output["error"]["code"], errors.InternalFault)
            place = f"input {index}: " if len(outputs) > 1 else ""
            return kind(f"{place}{output['error']['message']}")
    return None
