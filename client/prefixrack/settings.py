"""Where the server is and how patient the client is. Reads the environment once; knows no HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BASE_URL_VARIABLE = "PREFIXRACK_BASE_URL"
API_KEY_VARIABLE = "PREFIXRACK_API_KEY"
DEFAULT_BASE_URL = "http://localhost:8000"


@dataclass(frozen=True, slots=True)
class Settings:
    """`timeout_s` is the longest silence within one attempt; `deadline_s` bounds a call with all its retries."""

    base_url: str
    api_key: str | None = field(repr=False, default=None)
    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    deadline_s: float | None = None
    max_retries: int = 2

    def __post_init__(self) -> None:
        _check_base_url(self.base_url)
        for name in ("timeout_s", "connect_timeout_s", "deadline_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value!r}: give a number of seconds above 0")
        if self.max_retries < 0:
            raise ValueError(f"max_retries is {self.max_retries}: give 0 or more")


def find_base_url(given: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The argument, else `PREFIXRACK_BASE_URL`, else the port that `prefixrack serve` takes by default."""
    environ = os.environ if environ is None else environ
    return (given or environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL).strip().rstrip("/")


def find_api_key(given: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The argument, else `PREFIXRACK_API_KEY`. A line end around it, as files have one, is dropped."""
    environ = os.environ if environ is None else environ
    key = (given or environ.get(API_KEY_VARIABLE) or "").strip()
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key holds characters that no key has: copy it again, it begins with `pr_`")
    return key or None


def _check_base_url(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"the base URL is {base_url!r}: give one like {DEFAULT_BASE_URL!r}, with http:// or https://")
