"""A request as plain data: what will be sent, before any connection is open. Knows no httpx2 and no routes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefixrack.bundles import Upload
from prefixrack.errors import InvalidName

REPEATABLE_BY = ("Idempotency-Key", "If-Match")
SEGMENT = re.compile(r"[\w.:@~-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """`can_retry`: sending it twice does no more than sending it once. `is_computed`: the server takes a deadline."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    upload: Upload | None = None
    can_retry: bool = True
    is_computed: bool = False


def read(path: str, *, can_retry: bool = True, **query: str | int | None) -> ApiRequest:
    """A GET; query values that are None are left out."""
    given = {name: str(value) for name, value in query.items() if value is not None}
    return ApiRequest("GET", path, query=given, can_retry=can_retry)


def ask(path: str, body: Any) -> ApiRequest:
    """A POST that computes something and changes nothing."""
    headers = {"Content-Type": "application/json"}
    return ApiRequest("POST", path, headers=headers, content=encode_json(body), is_computed=True)


def write(
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    upload: Upload | None = None,
) -> ApiRequest:
    """A request that changes state: repeated only where a header tells the server that it may be a repetition."""
    given = dict(headers or {})
    can_retry = any(name in given for name in REPEATABLE_BY)
    if upload is not None:
        given |= {"Content-Type": upload.content_type, "Content-Length": str(upload.size_bytes)}
    if body is not None:
        given["Content-Type"] = "application/json"
    content = b"" if body is None else encode_json(body)
    return ApiRequest(
        method, path, query=query or {}, headers=given, content=content, upload=upload, can_retry=can_retry
    )


def encode_json(body: Any) -> bytes:
    """UTF-8 JSON; with `\\u` escapes where a lone surrogate has no UTF-8, so that the server can name the fault."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def segment(value: str) -> str:
    """One path segment. Raises InvalidName for what would reach another route, as `..` or a slash does."""
    if SEGMENT.fullmatch(value) is None or value in (".", ".."):
        raise InvalidName(
            f"{value!r} is not a name: letters, digits, '.', '_' and '-' are allowed, "
            "with '@alias' or '@number' behind an adapter's name"
        )
    return value


def name_of(ref: str) -> str:
    """The adapter's name in `name`, `name@alias` or `name@7`."""
    return ref.partition("@")[0]
