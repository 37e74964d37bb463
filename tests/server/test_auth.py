"""Keys and scopes: who gets in, who does not, and what the answer says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

KEYS = "/admin/v1/keys"


@pytest.fixture
async def guarded(serving: Any, bundles: Any) -> AsyncIterator[Any]:
    """A server that wants keys; `server.secrets` has one key per scope."""
    async with serving(http={"auth": "keys"}) as server:
        admin = await server.registry.ensure_admin_key()
        server.secrets["admin"] = admin
        for scope in ("predict", "adapters:read", "adapters:write", "alias:promote", "tenant:admin"):
            made = await server.client.post(KEYS, json={"scopes": [scope]}, headers=bearer(admin))
            assert made.status_code == 201, made.text
            server.secrets[scope] = made.json()["secret"]
        assert (await server.upload(bundles("intent"), **bearer(admin))).status_code == 201
        yield server


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


PREDICT = ("POST", "/v1/intent/predict", {"inputs": "hello"})
ROUTES = [
    ("predict", PREDICT),
    ("predict", ("POST", "/v1/predict", {"adapters": ["intent"], "inputs": "hello"})),
    ("adapters:read", ("GET", "/v1/adapters", None)),
    ("adapters:read", ("GET", "/v1/adapters/intent", None)),
    ("adapters:read", ("GET", "/admin/v1/adapters/intent/versions", None)),
    ("adapters:read", ("GET", "/admin/v1/adapters/intent/versions/1/bundle", None)),
    ("adapters:read", ("GET", "/admin/v1/adapters/intent/aliases", None)),
    ("adapters:write", ("PUT", "/admin/v1/adapters/intent/versions/1/residency", {"keep_resident": True})),
    ("alias:promote", ("PUT", "/admin/v1/adapters/intent/aliases/production", {"version": 1})),
    ("alias:promote", ("DELETE", "/admin/v1/adapters/intent/aliases/production", None)),
    ("adapters:write", ("DELETE", "/admin/v1/adapters/intent/versions/1", None)),
    ("tenant:admin", ("GET", KEYS, None)),
]


async def send(server: Any, route: Any, headers: dict[str, str]) -> Any:
    method, url, body = route
    return await server.client.request(method, url, json=body, headers=headers)


async def test_each_route_takes_its_scope_and_no_other(guarded: Any) -> None:
    scopes = ("predict", "adapters:read", "adapters:write", "alias:promote")
    for needed, route in ROUTES:
        for scope in scopes:
            if scope != needed:
                refused = await send(guarded, route, bearer(guarded.secrets[scope]))
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), (route, scope)
                assert needed in refused.json()["detail"]
        allowed = await send(guarded, route, bearer(guarded.secrets[needed]))
        assert allowed.status_code < 300, allowed.text


async def test_both_headers_carry_a_key(guarded: Any) -> None:
    secret = guarded.secrets["predict"]
    for headers in (bearer(secret), {"X-API-Key": secret}, {"Authorization": f"bearer {secret}"}):
        assert (await send(guarded, PREDICT, headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_key"),
        ({"Authorization": "Basic abc"}, "missing_key"),
        ({"Authorization": "Bearer"}, "missing_key"),
        ({"X-API-Key": ""}, "missing_key"),
        ({"X-API-Key": "guess"}, "invalid_key"),
        ({"Authorization": "Bearer pr_000000000000_" + "a" * 43}, "invalid_key"),
    ],
)
async def test_wrong_or_missing_keys(guarded: Any, headers: dict[str, str], code: str) -> None:
    for route in (PREDICT, ("GET", "/v1/adapters", None), ("GET", KEYS, None)):
        response = await send(guarded, route, headers)
        assert (response.status_code, response.json()["code"]) == (401, code)
        assert response.headers["www-authenticate"] == "Bearer"
        assert "a" * 43 not in response.text


async def test_a_refused_upload_is_not_even_read(guarded: Any, bundles: Any) -> None:
    response = await guarded.upload(bundles("other"), **bearer(guarded.secrets["predict"]))
    assert response.status_code == 403


async def test_keys_are_made_listed_and_revoked(guarded: Any) -> None:
    admin = bearer(guarded.secrets["admin"])
    made = (await guarded.client.post(KEYS, json={"scopes": ["predict"]}, headers=admin)).json()
    assert (await send(guarded, PREDICT, bearer(made["secret"]))).status_code == 200
    listed = (await guarded.client.get(KEYS, headers=admin)).json()["data"]
    assert made["id"] in [key["id"] for key in listed]
    assert all("secret" not in key for key in listed)
    assert (await guarded.client.delete(f"{KEYS}/{made['id']}", headers=admin)).status_code == 204
    assert (await send(guarded, PREDICT, bearer(made["secret"]))).json()["code"] == "invalid_key"
    missing = await guarded.client.delete(f"{KEYS}/nobody", headers=admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "key_not_found")


async def test_keys_are_listed_in_pages(guarded: Any) -> None:
    admin, ids, params = bearer(guarded.secrets["admin"]), list[str](), {"limit": 2}
    for _ in range(len(guarded.secrets)):
        page = (await guarded.client.get(KEYS, params=params, headers=admin)).json()
        assert len(page["data"]) <= 2
        ids += [key["id"] for key in page["data"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    whole = (await guarded.client.get(KEYS, headers=admin)).json()["data"]
    assert ids == [key["id"] for key in whole]
    assert len(ids) >= len(guarded.secrets) > 2
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "nobody"}):
        response = await guarded.client.get(KEYS, params=wrong, headers=admin)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "body", [{}, {"scopes": []}, {"scopes": ["everything"]}, {"scopes": ["predict"], "expires_at": "2030-01-01T00:00"}]
)
async def test_keys_that_cannot_be_made(guarded: Any, body: Any) -> None:
    response = await guarded.client.post(KEYS, json=body, headers=bearer(guarded.secrets["admin"]))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_a_tenants_admin_cannot_make_admins_of_all(guarded: Any) -> None:
    headers = bearer(guarded.secrets["tenant:admin"])
    assert (await guarded.client.post(KEYS, json={"scopes": ["admin"]}, headers=headers)).status_code == 403
    assert (await guarded.client.post(KEYS, json={"scopes": ["predict"]}, headers=headers)).status_code == 201


async def test_a_key_is_rotated(guarded: Any) -> None:
    admin = bearer(guarded.secrets["admin"])
    made = (await guarded.client.post(KEYS, json={"scopes": ["predict"]}, headers=admin)).json()
    url = f"{KEYS}/{made['id']}/rotate"
    refused = await guarded.client.post(url, json={"overlap_s": -1}, headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    rotated = await guarded.client.post(url, json={"overlap_s": 3600}, headers=admin)
    assert (rotated.status_code, rotated.json()["replaces"]) == (201, made["id"])
    for secret in (made["secret"], rotated.json()["secret"]):
        assert (await send(guarded, PREDICT, bearer(secret))).status_code == 200
    again = await guarded.client.post(url, json={}, headers=admin)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    by_id = {key["id"]: key for key in (await guarded.client.get(KEYS, headers=admin)).json()["data"]}
    assert by_id[made["id"]]["expires_at"] is not None
    assert by_id[rotated.json()["id"]]["expires_at"] is None


async def test_a_tenants_admin_cannot_rotate_admins_of_all(guarded: Any) -> None:
    admin = await guarded.registry.create_key("default", ["admin"])
    path, headers = f"{KEYS}/{admin.id}/rotate", bearer(guarded.secrets["tenant:admin"])
    refused = await guarded.client.post(path, json={}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_a_tenants_admin_cannot_revoke_admins_of_all(guarded: Any) -> None:
    admins = [await guarded.registry.create_key("default", ["admin"]) for _ in range(2)]
    path, headers = f"{KEYS}/{admins[0].id}", bearer(guarded.secrets["tenant:admin"])
    refused = await guarded.client.delete(path, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await guarded.client.delete(path, headers=bearer(admins[1].secret))).status_code == 204


async def test_the_own_tenant_may_be_named(guarded: Any) -> None:
    own = ("POST", "/v1/default:intent/predict", {"inputs": "hello"})
    assert (await send(guarded, own, bearer(guarded.secrets["predict"]))).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
        ({"Host": "LOCALHOST", "Origin": "http://localhost"}, 200),
        ({"Origin": "https://listed.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9000"}, 403),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "rebound.example:8000", "Origin": "http://rebound.example:8000"}, 403),
        ({"Host": ""}, 403),
    ],
)
async def test_without_keys_no_other_sites_page_gets_in(serving: Any, headers: dict[str, str], status: int) -> None:
    async with serving(http={"auth": "none", "cors_origins": ["https://listed.example"]}) as server:
        for method, url in (("GET", "/v1/adapters"), ("POST", "/v1/intent/predict")):
            response = await server.client.request(method, url, headers=headers)
            assert (response.status_code == 403) == (status == 403)
            if status == 403:
                assert response.json()["code"] == "forbidden"


async def test_health_metrics_and_docs_need_no_key(guarded: Any) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert (await guarded.client.get(path)).status_code == 200
