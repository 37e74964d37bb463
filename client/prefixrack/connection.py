"""What both clients know about their server: settings, retry policy, the httpx2 form of a request. Sends nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from prefixrack.requests import ApiRequest
from prefixrack.retries import RetryPolicy, Tries
from prefixrack.settings import Settings
from prefixrack.version import installed_version

DEADLINE_HEADER = "X-Request-Timeout-Ms"
# The longest that a server allows by default; it refuses longer ones.
MAX_DEADLINE_MS = 600_000


@dataclass(frozen=True)
class Connection:
    settings: Settings
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    user_agent: str = field(default_factory=lambda: f"prefixrack-python/{installed_version()}")

    def with_options(self, options: Mapping[str, Any]) -> Connection:
        """The same server and retry budget with other patience; options that are None are left as they are."""
        given = {name: value for name, value in options.items() if value is not None}
        return replace(self, settings=replace(self.settings, **given))

    def start(self, request: ApiRequest) -> Tries:
        max_retries = self.settings.max_retries if request.can_retry else 0
        return Tries(self.policy, max_retries=max_retries, deadline_s=self.settings.deadline_s)

    def arguments(self, request: ApiRequest, tries: Tries) -> dict[str, Any]:
        """What httpx2's `build_request` takes for the next attempt, but for the content."""
        remaining_s = tries.remaining_s()
        return {
            "method": request.method,
            "url": self.settings.base_url + request.path,
            "params": dict(request.query) or None,
            "headers": self._headers(request, remaining_s),
            "timeout": self._timeout(remaining_s),
        }

    def _headers(self, request: ApiRequest, remaining_s: float | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self.user_agent}
        if self.settings.api_key is not None:
            headers["Authorization"] = f"Bearer {self.settings.api_key}"
        if request.is_computed and remaining_s is not None:
            headers[DEADLINE_HEADER] = str(max(1, min(int(remaining_s * 1000), MAX_DEADLINE_MS)))
        return headers | trace_headers() | dict(request.headers)

    def _timeout(self, remaining_s: float | None) -> httpx2.Timeout:
        """The settings' timeouts, cut to what is left of the caller's deadline."""
        limit_s = float("inf") if remaining_s is None else remaining_s
        connect_s = min(self.settings.connect_timeout_s, limit_s)
        return httpx2.Timeout(min(self.settings.timeout_s, limit_s), connect=connect_s)


def trace_headers() -> dict[str, str]:
    """W3C trace context of the caller's current span. A program that never loaded OpenTelemetry has none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
