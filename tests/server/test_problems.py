"""Problem documents: one table, complete, that the client can read back; request ids on every answer."""

from __future__ import annotations

from typing import Any

import pytest

from prefixrack import errors
from prefixrack.errors import STATUS_ERRORS, fault_classes
from prefixrack.types import Problem
from prefixrack_server.problems import problem_response, status_of


def test_every_fault_has_a_status_that_the_client_knows() -> None:
    for kind in fault_classes():
        assert status_of(kind) in STATUS_ERRORS, kind


def test_one_code_has_one_status() -> None:
    statuses: dict[str, set[int]] = {}
    for kind in fault_classes():
        statuses.setdefault(kind.code, set()).add(status_of(kind))
    assert {code: seen for code, seen in statuses.items() if len(seen) > 1} == {}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.MalformedJson, 400),
        (errors.InvalidName, 400),
        (errors.InvalidKey, 401),
        (errors.Forbidden, 403),
        (errors.VersionNotFound, 404),
        (errors.MethodNotAllowed, 405),
        (errors.RequestStalled, 408),
        (errors.IdempotencyConflict, 409),
        (errors.PreconditionFailed, 412),
        (errors.TooManyTokens, 413),
        (errors.BundleTooLarge, 413),
        (errors.UnsupportedMediaType, 415),
        (errors.TensorMismatch, 422),
        (errors.PreconditionRequired, 428),
        (errors.RateLimited, 429),
        (errors.QueueShareExceeded, 429),
        (errors.InternalFault, 500),
        (errors.ServerOverloaded, 503),
        (errors.DeadlineExceeded, 504),
        (errors.DiskFull, 507),
    ],
)
def test_statuses(kind: type[errors.Fault], status: int) -> None:
    response = problem_response(kind("what was seen"), "id-1")
    assert response.status_code == status
    problem = Problem.model_validate_json(bytes(response.body))
    assert (problem.code, problem.detail, problem.error, problem.request_id, problem.status) == (
        kind.code,
        "what was seen",
        "what was seen",
        "id-1",
        status,
    )
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert ("www-authenticate" in response.headers) == (status == 401)


def test_a_lone_surrogate_in_a_message_can_be_sent() -> None:
    response = problem_response(errors.InvalidRequest("seen \ud800"), "id-1")
    assert b"\\ud800" in bytes(response.body)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/", "/v1/intent/predict/", "/admin/v1/adapters/a/b/versions"])
async def test_unknown_routes(server: Any, path: str) -> None:
    response = await server.client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "route_not_found")
    assert response.headers["content-type"] == "application/problem+json"


async def test_wrong_methods_name_the_allowed_ones(server: Any) -> None:
    response = await server.client.post("/admin/v1/adapters/intent/aliases/production", json={})
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, PUT, DELETE"
    response = await server.client.get("/v1/intent/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("body", [b"{", b'{"version": "secret-input"}', b'{"version": "\\ud800"}', b"\xff", b"[]"])
async def test_validation_never_echoes_the_input(server: Any, body: bytes) -> None:
    url, headers = "/admin/v1/adapters/intent/aliases/production", {"Content-Type": "application/json"}
    response = await server.client.put(url, content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.json()["code"] in ("malformed_json", "invalid_request")
    assert "secret-input" not in response.text


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        (
            "/v1/adapters?limit=many",
            "query.limit: Input should be a valid integer, unable to parse string as an integer; seen 'many'",
        ),
        ("/v1/adapters?limit=0", "query.limit: Input should be greater than or equal to 1; seen '0'"),
        ("/admin/v1/usage?since=" + "ü" * 99, "; seen '" + "\\xfc" * 40 + "'"),
        ("/admin/v1/adapters/intent/versions/0", "path.number: Input should be greater than or equal to 1; seen '0'"),
    ],
)
async def test_a_value_in_the_address_is_shown(server: Any, path: str, detail: str) -> None:
    response = await server.client.get(path)
    assert response.status_code == 422
    assert detail in response.json()["detail"]


async def test_small_routes_take_small_bodies(server: Any) -> None:
    headers = {"Content-Type": "application/json"}
    url = "/admin/v1/adapters/intent/aliases/production"
    response = await server.client.put(url, content=b" " * 100_000, headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


async def test_request_ids(server: Any) -> None:
    given = await server.client.get("/health/live", headers={"X-Request-Id": "my.id_1-a"})
    assert given.headers["x-request-id"] == "my.id_1-a"
    for bad in ("has space", "x" * 129, "ä".encode(), ""):
        replaced = await server.client.get("/nowhere", headers={"X-Request-Id": bad})
        assert len(replaced.headers["x-request-id"]) == 32
        assert replaced.json()["request_id"] == replaced.headers["x-request-id"]


async def test_unexpected_errors_are_answered_without_details(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(server.registry, "list_adapters", broken)
    response = await server.client.get("/v1/adapters", headers={"X-Request-Id": "abc"})
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc"
