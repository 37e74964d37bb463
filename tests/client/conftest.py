"""A scripted server for the client's tests: answers in order, remembers what it was asked, never opens a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prefixrack import AsyncClient, Client
from prefixrack.bundles import bundle_digest
from prefixrack.retries import RetryPolicy

DIGEST = "d" * 64


class Script:
    """Gives the queued answers in order: responses, exceptions to raise, or functions of the request."""

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self.requests: list[httpx2.Request] = []
        self.pauses: list[float] = []
        self.now = 0.0

    def queue(self, *answers: Any) -> None:
        self.answers.extend(answers)

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        response: httpx2.Response = answer(request) if callable(answer) else answer
        return response

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now += pause_s

    async def asleep(self, pause_s: float) -> None:
        self.sleep(pause_s)

    def policy(self) -> RetryPolicy:
        return RetryPolicy(draw=lambda: 0.0, clock=lambda: self.now)

    def client(self, **options: Any) -> Client:
        defaults: dict[str, Any] = {"retry_policy": self.policy(), "sleep": self.sleep, "api_key": "pr_a_b"}
        return Client("http://rack", transport=httpx2.MockTransport(self.respond), **(defaults | options))

    def async_client(self, **options: Any) -> AsyncClient:
        defaults: dict[str, Any] = {"retry_policy": self.policy(), "sleep": self.asleep, "api_key": "pr_a_b"}
        return AsyncClient("http://rack", transport=httpx2.MockTransport(self.respond), **(defaults | options))


class Wire:
    """Answers as a server writes them."""

    @staticmethod
    def prediction(*outputs: dict[str, Any], task: str = "text-classification") -> httpx2.Response:
        return httpx2.Response(
            200,
            json={
                "id": "req-1",
                "adapter": {"name": "intent", "version": 3, "digest": DIGEST},
                "task": task,
                "outputs": list(outputs),
                "usage": {"tokens": 9, "rows": 1, "truncated": 0},
                "timings_ms": {"total": 1.5},
            },
        )

    @staticmethod
    def label(label: str, score: float = 0.9) -> dict[str, Any]:
        rest = {"label": "other", "score": round(1 - score, 3)}
        return {"label": label, "score": score, "scores": [{"label": label, "score": score}, rest]}

    @staticmethod
    def failed(code: str = "empty_input") -> dict[str, Any]:
        return {"error": {"code": code, "message": "the text is empty"}}

    @staticmethod
    def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> httpx2.Response:
        document = {
            "type": "about:blank",
            "title": "Refused",
            "status": status,
            "detail": f"{code}: seen x, allowed y",
            "code": code,
            "request_id": "req-9",
            "error": "refused",
        }
        return httpx2.Response(status, json=document | more, headers=headers)

    @staticmethod
    def alias(version: int, previous: int | None = None, alias: str = "production", **more: Any) -> httpx2.Response:
        body = {"name": "intent", "alias": alias, "version": version, "digest": DIGEST, "etag": f'"{version}"'}
        return httpx2.Response(200, json=body | {"previous_version": previous} | more)

    @staticmethod
    def version(number: int = 1, is_new: bool = True) -> dict[str, Any]:
        return {
            "name": "intent",
            "version": number,
            "digest": DIGEST,
            "size_bytes": 12,
            "created_at": "2026-11-22T10:00:00Z",
            "created_by": "key1",
            "aliases": ["latest"],
            "is_new": is_new,
        }

    @staticmethod
    def summary(name: str = "intent") -> dict[str, Any]:
        return {
            "name": name,
            "task": "text-classification",
            "version": 3,
            "digest": DIGEST,
            "labels": ["pos", "neg"],
            "aliases": {"latest": 3},
            "num_versions": 3,
            "created_at": "2026-11-22T10:00:00Z",
        }

    @classmethod
    def detail(cls, digest: str = DIGEST) -> httpx2.Response:
        more = {"input_schema": {"type": "string"}, "example": "hi", "max_tokens": 120, "prefix_len": 16}
        return httpx2.Response(200, json=cls.summary() | {"digest": digest} | more)

    @staticmethod
    def page(items: list[Any], next_cursor: str | None = None) -> httpx2.Response:
        return httpx2.Response(200, json={"data": items, "next_cursor": next_cursor})


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "adapter.json").write_text('{"name": "intent"}')
    (folder / "adapter.safetensors").write_bytes(bytes(range(256)) * 3000)
    (folder / "README.md").write_text("# intent\n")
    return folder


@pytest.fixture
def digest_of() -> Callable[[Path], str]:
    return bundle_digest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFIXRACK_BASE_URL", "PREFIXRACK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
