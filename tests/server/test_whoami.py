"""Who the caller is: of a key, of a token's tenant, and where no keys are asked for."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from prefixrack import AsyncClient
from prefixrack.errors import AuthenticationError
from prefixrack.types import Quotas
from prefixrack_server.registry.principal import Principal
from prefixrack_server.routes.whoami import authenticated_by

WHERE = "/v1/whoami"
FOREVER = "2999-01-01T00:00:00.000Z"


async def ask(server: Any, secret: str, **headers: str) -> Any:
    return await server.client.get(WHERE, headers={"Authorization": f"Bearer {secret}"} | headers)


async def test_a_key_is_told_what_it_is(serving: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        settings = {"weight": 2.0, "requests_per_minute": 60, "adapters": ["team-*"]}
        await server.registry.create_tenant("acme", settings)
        transport = httpx2.ASGITransport(app=server.app)
        secret = await server.registry.ensure_admin_key()
        async with AsyncClient("http://localhost", secret, transport=transport) as admin:
            made = await admin.create_key(
                ["predict"], expires_at=FOREVER, adapters=["*.en"], tenant="acme", name="nightly, Zoë"
            )
            assert [key.name async for key in admin.list_keys(tenant="acme")] == ["nightly, Zoë"]
            created = [line async for line in admin.list_audit(tenant="acme", action="key.create")]
            assert created[0].detail["after"]["name"] == "nightly, Zoë"
        async with AsyncClient("http://localhost", made.secret, transport=transport) as client:
            found = await client.whoami()
            assert (await client.with_raw_response.whoami()).value == found
        assert (found.tenant, found.key_id, found.key_name) == ("acme", made.id, "nightly, Zoë")
        assert (found.authenticated_by, found.scopes, found.expires_at) == ("key", ["predict"], FOREVER)
        assert found.adapter_patterns == [["*.en"], ["team-*"]]
        assert (found.weight, found.quotas) == (2.0, Quotas(requests_per_minute=60))


async def test_asking_needs_a_key_that_holds_and_no_scope(serving: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        missing = await server.client.get(WHERE)
        assert (missing.status_code, missing.json()["code"]) == (401, "missing_key")
        for scope in ("predict", "adapters:read", "alias:promote"):
            made = await server.registry.create_key("default", [scope])
            assert (await ask(server, made.secret)).json()["scopes"] == [scope]
        await server.registry.revoke_key("default", made.id)
        transport = httpx2.ASGITransport(app=server.app)
        async with AsyncClient("http://localhost", made.secret, transport=transport) as client:
            with pytest.raises(AuthenticationError):
                await client.whoami()


async def test_it_costs_no_quota(serving: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        made = await server.registry.create_key("default", ["predict"])
        await server.registry.change_tenant("default", {"requests_per_minute": 0})
        assert (await ask(server, made.secret)).json()["quotas"]["requests_per_minute"] == 0


async def test_without_keys_everybody_is_the_default_tenants_admin(serving: Any) -> None:
    async with serving() as server:
        found = (await server.client.get(WHERE)).json()
        assert (found["tenant"], found["scopes"], found["authenticated_by"]) == ("default", ["admin"], "none")
        stranger = await server.client.get(WHERE, headers={"Origin": "https://evil.example"})
        assert stranger.status_code == 403


def test_who_came_with_a_token() -> None:
    assert authenticated_by(Principal("oidc:ada", "acme", frozenset())) == "token"
    assert authenticated_by(Principal("0123456789ab", "acme", frozenset())) == "key"


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "end ", "\ud800", "x" * 101])
async def test_names_that_no_key_can_have(serving: Any, name: str) -> None:
    async with serving() as server:
        content = b'{"scopes": ["predict"], "name": ' + json.dumps(name).encode() + b"}"
        answer = await server.client.post(
            "/admin/v1/keys", content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        if name == "two\nlines":
            assert answer.json()["detail"].startswith(
                "name is 'two\\nlines': 1 to 100 printable characters are allowed"
            )
