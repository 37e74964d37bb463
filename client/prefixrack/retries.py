"""When a request is sent again and after what pause. Pure decisions: sleeps nowhere and sends nothing.

The rules are those of openai-python, which people know; the budget is Finagle's idea: retries are a share of requests,
so that clients do not multiply the load of a server that is failing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

import httpx2

from prefixrack.errors import APIConnectionError, APIError, APITimeoutError
from prefixrack.responses import retry_after_s, status_error

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 8.0
JITTER_SHARE = 0.25
MAX_OBEYED_S = 60.0

RETRIED_STATUSES = frozenset({408, 409, 429})
FINAL_STATUSES = frozenset({501, 504, 507})
OUR_MISTAKES = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)


class RetryBudget:
    """Every request earns `share` of a retry; `reserve` retries are there from the start and are the most kept."""

    def __init__(self, share: float = 0.1, reserve: float = 10.0) -> None:
        self._share = share
        self._reserve = reserve
        self._balance = reserve
        self._lock = Lock()

    def earn(self) -> None:
        with self._lock:
            self._balance = min(self._reserve, self._balance + self._share)

    def spend(self) -> bool:
        """Take one retry; False when there is none to take."""
        with self._lock:
            # A tenth added ten times stays a hair below one.
            is_covered = self._balance > 1 - 1e-9
            self._balance -= 1 if is_covered else 0
            return is_covered


@dataclass(frozen=True)
class RetryPolicy:
    """Lives as long as its client. `draw` gives numbers in [0, 1); `clock` gives monotonic seconds."""

    budget: RetryBudget = field(default_factory=RetryBudget)
    draw: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic


class Tries:
    """The attempts of one request: told how each ended, it says how long to pause, or raises the final error."""

    def __init__(self, policy: RetryPolicy, *, max_retries: int, deadline_s: float | None) -> None:
        self._policy = policy
        self._max_retries = max_retries
        self._deadline = None if deadline_s is None else policy.clock() + deadline_s
        self._num_retries = 0
        policy.budget.earn()

    def remaining_s(self) -> float | None:
        """Seconds to the caller's deadline, None without one. Raises APITimeoutError when it has passed."""
        if self._deadline is None:
            return None
        remaining = self._deadline - self._policy.clock()
        if remaining <= 0:
            raise APITimeoutError("the caller's deadline passed before the request was sent: give a longer deadline_s")
        return remaining

    def after_response(self, response: httpx2.Response) -> float | None:
        """None for a success, else the pause before the next attempt. Raises the typed error when there is none."""
        if response.is_success:
            return None
        error = status_error(response)
        if not _is_retried(response.status_code):
            raise error
        return self._pause_or_raise(error, retry_after_s(response))

    def after_failure(self, failure: httpx2.RequestError) -> float:
        """The pause before the next attempt. Raises APIConnectionError or APITimeoutError when there is none."""
        error = connection_error(failure)
        if isinstance(failure, OUR_MISTAKES) or not isinstance(failure, httpx2.TransportError):
            raise error from failure
        return self._pause_or_raise(error, None)

    def _pause_or_raise(self, error: APIError, asked_s: float | None) -> float:
        pause_s = self._backoff_s() if asked_s is None else asked_s
        # Coming back before the server wants us would not obey it; waiting minutes is the caller's decision.
        is_worth_it = pause_s <= MAX_OBEYED_S and self._num_retries < self._max_retries
        if not (is_worth_it and self._is_in_time(pause_s) and self._policy.budget.spend()):
            raise error
        self._num_retries += 1
        return pause_s

    def _backoff_s(self) -> float:
        longest: float = min(FIRST_PAUSE_S * 2.0**self._num_retries, MAX_PAUSE_S)
        return longest * (1 - JITTER_SHARE * self._policy.draw())

    def _is_in_time(self, pause_s: float) -> bool:
        return self._deadline is None or self._policy.clock() + pause_s < self._deadline


def connection_error(failure: httpx2.RequestError) -> APIConnectionError:
    """The client's own error for a failed exchange, naming the address."""
    url = failure.request.url
    reason = str(failure) or type(failure).__name__
    if isinstance(failure, httpx2.TimeoutException):
        return APITimeoutError(f"{url} did not answer in time ({reason}): is the server busy, or timeout_s too short?")
    return APIConnectionError(f"no usable answer from {url} ({reason}): is the server running there?")


def _is_retried(status: int) -> bool:
    return status in RETRIED_STATUSES or (status >= 500 and status not in FINAL_STATUSES)
