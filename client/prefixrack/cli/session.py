"""What the commands of one invocation share: the server, the key, the client made from them. Knows no command."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import httpx2
import typer

from prefixrack.async_client import AsyncClient
from prefixrack.client import Client

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TenantOption = Annotated[
    str | None, typer.Option(help="Another tenant than your key's own; for admins of all tenants.")
]


@dataclass(frozen=True)
class Session:
    base_url: str | None = None
    api_key: str | None = field(repr=False, default=None)
    timeout_s: float = 30.0
    transport: httpx2.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep

    def open_client(self) -> Client:
        """The client of this invocation; the caller closes it. Raises BadParameter for unusable settings."""
        with _usable():
            return Client(
                self.base_url,
                self.api_key,
                timeout_s=self.timeout_s,
                transport=self.transport,
                sleep=self.sleep,
            )

    @asynccontextmanager
    async def open_async_client(self) -> AsyncIterator[AsyncClient]:
        """One for load: no retries, and as many connections as requests in flight."""
        transport = self.transport if isinstance(self.transport, httpx2.AsyncBaseTransport) else None
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx2.AsyncClient(transport=transport, limits=limits) as http:
            with _usable():
                client = AsyncClient(
                    self.base_url, self.api_key, timeout_s=self.timeout_s, max_retries=0, http_client=http
                )
            yield client


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def open_client(context: typer.Context) -> Client:
    session: Session = context.obj
    return session.open_client()
