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
    """The methods of a client that send a request, each giving a `RawResponse`. Errors are raised as ever.

    They are named here for type checkers, which keep each one's parameters and overloads; a test compares the lists.
    """

    def __init__(self, client: Client) -> None:
        self.predict = _raw(client, client.predict)
        self.fan_out = _raw(client, client.fan_out)
        self.classify = _raw(client, client.classify)
        self.ner = _raw(client, client.ner)
        self.answer = _raw(client, client.answer)
        self.choose = _raw(client, client.choose)
        self.embed = _raw(client, client.embed)
        self.get_adapter = _raw(client, client.get_adapter)
        self.get_version = _raw(client, client.get_version)
        self.push = _raw(client, client.push)
        self.push_source = _raw(client, client.push_source)
        self.delete_version = _raw(client, client.delete_version)
        self.delete_adapter = _raw(client, client.delete_adapter)
        self.get_alias = _raw(client, client.get_alias)
        self.set_alias = _raw(client, client.set_alias)
        self.delete_alias = _raw(client, client.delete_alias)
        self.promote = _raw(client, client.promote)
        self.start_canary = _raw(client, client.start_canary)
        self.start_shadow = _raw(client, client.start_shadow)
        self.rollback = _raw(client, client.rollback)
        self.get_gates = _raw(client, client.get_gates)
        self.set_gates = _raw(client, client.set_gates)
        self.get_residency = _raw(client, client.get_residency)
        self.set_residency = _raw(client, client.set_residency)
        self.whoami = _raw(client, client.whoami)
        self.create_key = _raw(client, client.create_key)
        self.rotate_key = _raw(client, client.rotate_key)
        self.revoke_key = _raw(client, client.revoke_key)
        self.create_tenant = _raw(client, client.create_tenant)
        self.get_tenant = _raw(client, client.get_tenant)
        self.update_tenant = _raw(client, client.update_tenant)
        self.metrics = _raw(client, client.metrics)


class AsyncRawClient:
    """The same for the asynchronous client, awaited."""

    def __init__(self, client: AsyncClient) -> None:
        self.predict = _araw(client, client.predict)
        self.fan_out = _araw(client, client.fan_out)
        self.classify = _araw(client, client.classify)
        self.ner = _araw(client, client.ner)
        self.answer = _araw(client, client.answer)
        self.choose = _araw(client, client.choose)
        self.embed = _araw(client, client.embed)
        self.get_adapter = _araw(client, client.get_adapter)
        self.get_version = _araw(client, client.get_version)
        self.push = _araw(client, client.push)
        self.push_source = _araw(client, client.push_source)
        self.delete_version = _araw(client, client.delete_version)
        self.delete_adapter = _araw(client, client.delete_adapter)
        self.get_alias = _araw(client, client.get_alias)
        self.set_alias = _araw(client, client.set_alias)
        self.delete_alias = _araw(client, client.delete_alias)
        self.promote = _araw(client, client.promote)
        self.start_canary = _araw(client, client.start_canary)
        self.start_shadow = _araw(client, client.start_shadow)
        self.rollback = _araw(client, client.rollback)
        self.get_gates = _araw(client, client.get_gates)
        self.set_gates = _araw(client, client.set_gates)
        self.get_residency = _araw(client, client.get_residency)
        self.set_residency = _araw(client, client.set_residency)
        self.whoami = _araw(client, client.whoami)
        self.create_key = _araw(client, client.create_key)
        self.rotate_key = _araw(client, client.rotate_key)
        self.revoke_key = _araw(client, client.revoke_key)
        self.create_tenant = _araw(client, client.create_tenant)
        self.get_tenant = _araw(client, client.get_tenant)
        self.update_tenant = _araw(client, client.update_tenant)
        self.metrics = _araw(client, client.metrics)


def _raw(client: Client, method: Callable[P, T]) -> Callable[P, RawResponse[T]]:
    def call(*args: P.args, **kwargs: P.kwargs) -> RawResponse[T]:
        seen: list[httpx2.Response] = []
        observed: Callable[P, T] = getattr(client.observed(seen.append), method.__name__)
        value = observed(*args, **kwargs)
        return RawResponse(value, seen[-1])

    return call


def _araw(client: AsyncClient, method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[RawResponse[T]]]:
    async def call(*args: P.args, **kwargs: P.kwargs) -> RawResponse[T]:
        seen: list[httpx2.Response] = []
        observed: Callable[P, Awaitable[T]] = getattr(client.observed(seen.append), method.__name__)
        value = await observed(*args, **kwargs)
        return RawResponse(value, seen[-1])

    return call
