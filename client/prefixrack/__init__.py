"""The client: talks to a Prefixrack server. Knows HTTP and the wire types; knows no torch, no backbone, no server code.

Names are loaded on first use, so that `prefixrack.types` and `prefixrack.errors` can be imported without httpx2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefixrack.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    DeadlineExceededError,
    InsufficientStorageError,
    InternalServerError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    PreconditionFailedError,
    PrefixrackError,
    RateLimitError,
    ServiceUnavailableError,
    UnexpectedTaskError,
    UnprocessableEntityError,
)

if TYPE_CHECKING:
    from prefixrack.async_client import AsyncClient
    from prefixrack.client import Client

    __version__: str

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ConflictError",
    "DeadlineExceededError",
    "InsufficientStorageError",
    "InternalServerError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "PrefixrackError",
    "RateLimitError",
    "ServiceUnavailableError",
    "UnexpectedTaskError",
    "UnprocessableEntityError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Client":
        return import_module("prefixrack.client").Client
    if name == "AsyncClient":
        return import_module("prefixrack.async_client").AsyncClient
    if name == "__version__":
        return import_module("prefixrack.version").installed_version()
    raise AttributeError(f"module 'prefixrack' has no attribute {name!r}")
