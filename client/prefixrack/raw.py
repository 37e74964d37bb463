"""`with_raw_response`: a method's value together with the HTTP response that it came in. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import httpx2

if TYPE_CHECKING:
    from prefixrack.async_client import AsyncClient
    from prefixrack.client import Client

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawResponse(Generic[T]):
    """`value` is what the method gives; `response` the last answer that it got, after any retries."""

    value: T
    response: httpx2.Response

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> httpx2.Headers:
        return self.response.headers

    @property
    def request_id(self) -> str | None:
        return self.response.headers.get("x-request-id")


class RawClient:
    """The methods of a client that send a request, each giving a `RawResponse`. Errors are raised as ever."""

    def __init__(self, client: Client) -> None:
        self.predict = _raw(client, lambda one: one.predict)
        self.fan_out = _raw(client, lambda one: one.fan_out)
        self.get_adapter = _raw(client, lambda one: one.get_adapter)
        self.push = _raw(client, lambda one: one.push)
        self.push_source = _raw(client, lambda one: one.push_source)
        self.get_alias = _raw(client, lambda one: one.get_alias)
        self.set_alias = _raw(client, lambda one: one.set_alias)
        self.promote = _raw(client, lambda one: one.promote)
        self.rollback = _raw(client, lambda one: one.rollback)
        self.get_gates = _raw(client, lambda one: one.get_gates)
        self.set_gates = _raw(client, lambda one: one.set_gates)
        self.get_residency = _raw(client, lambda one: one.get_residency)
        self.set_residency = _raw(client, lambda one: one.set_residency)
        self.whoami = _raw(client, lambda one: one.whoami)
        self.create_key = _raw(client, lambda one: one.create_key)
        self.rotate_key = _raw(client, lambda one: one.rotate_key)


class AsyncRawClient:
    """The same for the asynchronous client, awaited."""

    def __init__(self, client: AsyncClient) -> None:
        self.predict = _araw(client, lambda one: one.predict)
        self.fan_out = _araw(client, lambda one: one.fan_out)
        self.get_adapter = _araw(client, lambda one: one.get_adapter)
        self.push = _araw(client, lambda one: one.push)
        self.push_source = _araw(client, lambda one: one.push_source)
        self.get_alias = _araw(client, lambda one: one.get_alias)
        self.set_alias = _araw(client, lambda one: one.set_alias)
        self.promote = _araw(client, lambda one: one.promote)
        self.rollback = _araw(client, lambda one: one.rollback)
        self.get_gates = _araw(client, lambda one: one.get_gates)
        self.set_gates = _araw(client, lambda one: one.set_gates)
        self.get_residency = _araw(client, lambda one: one.get_residency)
        self.set_residency = _araw(client, lambda one: one.set_residency)
        self.whoami = _araw(client, lambda one: one.whoami)
        self.create_key = _araw(client, lambda one: one.create_key)
        self.rotate_key = _araw(client, lambda one: one.rotate_key)


def _raw(client: Client, method_of: Callable[[Client], Callable[P, T]]) -> Callable[P, RawResponse[T]]:
    def call(*args: P.args, **kwargs: P.kwargs) -> RawResponse[T]:
        seen: list[httpx2.Response] = []
        value = method_of(client.observed(seen.append))(*args, **kwargs)
        return RawResponse(value, seen[-1])

    return call


def _araw(
    client: AsyncClient, method_of: Callable[[AsyncClient], Callable[P, Awaitable[T]]]
) -> Callable[P, Awaitable[RawResponse[T]]]:
    async def call(*args: P.args, **kwargs: P.kwargs) -> RawResponse[T]:
        seen: list[httpx2.Response] = []
        value = await method_of(client.observed(seen.append))(*args, **kwargs)
        return RawResponse(value, seen[-1])

    return call
