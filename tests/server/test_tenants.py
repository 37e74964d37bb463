"""Tenants: made, shown, changed and disabled; what one has, no other sees, lists, guesses or times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import event

from prefixrack_server.registry.patterns import is_any

TENANTS = "/admin/v1/tenants"
KEYS = "/admin/v1/keys"
SCOPES = ["predict", "adapters:read", "adapters:write", "alias:promote"]
TEXT = {"inputs": "hello"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


class House:
    """A server with two tenants beside the default one, and a key for each."""

    def __init__(self, server: Any, admin: str) -> None:
        self.server = server
        self.admin = bearer(admin)
        self.keys: dict[str, dict[str, str]] = {}

    async def ask(self, who: dict[str, str], method: str, url: str, body: Any = None) -> Any:
        return await self.server.client.request(method, url, json=body, headers=who)

    async def make_tenant(self, name: str, **settings: Any) -> None:
        made = await self.ask(self.admin, "POST", TENANTS, {"name": name} | settings)
        assert made.status_code == 201, made.text
        self.keys[name] = await self.make_key(name)

    async def make_key(self, tenant: str, scopes: list[str] = SCOPES, **settings: Any) -> dict[str, str]:
        made = await self.ask(self.admin, "POST", KEYS, {"tenant": tenant, "scopes": scopes} | settings)
        assert made.status_code == 201, made.text
        return bearer(made.json()["secret"])

    async def upload(self, tenant: str, bundle: Any, name: str | None = None) -> Any:
        return await self.server.upload(bundle, name, **self.keys[tenant])

    async def names(self, who: dict[str, str], **params: Any) -> list[str]:
        found: list[str] = []
        while True:
            page = (await self.server.client.get("/v1/adapters", params=params, headers=who)).json()
            found += [adapter["name"] for adapter in page["data"]]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]

    async def audit(self, tenant: str) -> list[Any]:
        lines, _ = await self.server.registry.list_audit(tenant, 100)
        return list(lines)


IS_NOTED: ContextVar[bool] = ContextVar("is_noted", default=False)


@pytest.fixture
async def house(serving: Any, database_url: str) -> AsyncIterator[House]:
    async with serving(http={"auth": "keys"}, registry={"database_url": database_url}) as server:
        house = House(server, await server.registry.ensure_admin_key())
        await house.make_tenant("acme")
        await house.make_tenant("beta")
        yield house


@contextmanager
def statements(server: Any) -> Iterator[list[str]]:
    """What the block asks of the database, without values; housekeeping has tasks of its own."""
    asked: list[str] = []
    engine = server.registry._database._transactions._engine
    engine = getattr(engine, "sync_engine", engine)

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if IS_NOTED.get():
            asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    token = IS_NOTED.set(True)
    try:
        yield asked
    finally:
        IS_NOTED.reset(token)
        event.remove(engine, "before_cursor_execute", note)


async def test_a_tenant_is_made_shown_and_changed(house: House) -> None:
    quotas = {"requests_per_minute": 5, "max_bytes": 10**12}
    await house.make_tenant("new", weight=2.5, quotas=quotas, adapters=["b*", "a"])
    shown = (await house.ask(house.admin, "GET", f"{TENANTS}/new")).json()
    unlimited = {"tokens_per_minute": None, "max_adapters": None}
    assert (shown["name"], shown["weight"], shown["quotas"]) == ("new", 2.5, quotas | unlimited)
    assert (shown["adapters"], shown["disabled_at"]) == (["a", "b*"], None)
    change = {"quotas": {"requests_per_minute": None, "max_adapters": 0}}
    changed = (await house.ask(house.admin, "PATCH", f"{TENANTS}/new", change)).json()
    after = {"requests_per_minute": None, "tokens_per_minute": None, "max_adapters": 0, "max_bytes": 10**12}
    assert shown.pop("stored") == {"num_adapters": 0, "num_bytes": 0}
    assert changed == shown | {"quotas": after, "stored": None}
    assert (await house.ask(house.admin, "PATCH", f"{TENANTS}/new", {})).json() == changed


async def test_every_change_of_a_tenant_is_audited(house: House) -> None:
    headers = house.admin | {"X-Request-Id": "change-1"}
    await house.ask(headers, "PATCH", f"{TENANTS}/acme", {"weight": 3})
    line = (await house.audit("acme"))[0]
    assert (line.action, line.target, line.request_id) == ("tenant.update", "acme", "change-1")
    assert (line.detail["before"]["weight"], line.detail["after"]["weight"]) == (1.0, 3.0)
    assert line.key_id in house.admin["Authorization"]


async def test_tenants_are_listed_in_pages(house: House) -> None:
    first = (await house.ask(house.admin, "GET", f"{TENANTS}?limit=2")).json()
    rest = (await house.ask(house.admin, "GET", f"{TENANTS}?limit=2&cursor={first['next_cursor']}")).json()
    assert [tenant["name"] for tenant in (*first["data"], *rest["data"])] == ["acme", "beta", "default"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "acme"}, 409, "conflict"),
        ({"name": "A b"}, 400, "invalid_name"),
        ({"name": "x" * 64}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"name": "x", "weight": 0}, 422, "invalid_request"),
        ({"name": "x", "weight": 1e9}, 422, "invalid_request"),
        ({"name": "x", "quotas": {"max_adapters": -1}}, 422, "invalid_request"),
        ({"name": "x", "quotas": {"max_adapter": 1}}, 422, "invalid_request"),
        ({"name": "x", "adapters": ["[a-z]"]}, 422, "invalid_request"),
        ({"name": "x", "disabled": True}, 422, "invalid_request"),
    ],
)
async def test_tenants_that_cannot_be_made(house: House, body: Any, status: int, code: str) -> None:
    refused = await house.ask(house.admin, "POST", TENANTS, body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    listed = (await house.ask(house.admin, "GET", TENANTS)).json()["data"]
    assert [tenant["name"] for tenant in listed] == ["acme", "beta", "default"]


async def test_an_unknown_tenant_is_named(house: House) -> None:
    for method, url, body in (
        ("GET", f"{TENANTS}/nobody", None),
        ("PATCH", f"{TENANTS}/nobody", {"weight": 2}),
        ("POST", KEYS, {"tenant": "nobody", "scopes": ["predict"]}),
    ):
        refused = await house.ask(house.admin, method, url, body)
        assert (refused.status_code, refused.json()["code"]) == (404, "tenant_not_found")


async def test_tenants_are_the_business_of_admins_of_all(house: House) -> None:
    manager = await house.make_key("acme", ["tenant:admin"])
    for method, url in (("GET", TENANTS), ("POST", TENANTS), ("PATCH", f"{TENANTS}/acme")):
        refused = await house.ask(manager, method, url, {"weight": 9, "name": "x"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await house.ask(manager, "GET", f"{TENANTS}/acme")).json()["name"] == "acme"
    problems = [(await house.ask(manager, "GET", f"{TENANTS}/{name}")).json() for name in ("beta", "none")]
    assert without_name(problems[0], "beta") == without_name(problems[1], "none")


async def test_one_name_in_two_tenants(house: House, bundles: Any) -> None:
    ours, theirs = bundles("intent", seed=1), bundles("intent", seed=2)
    assert (await house.upload("acme", ours)).status_code == 201
    assert (await house.upload("beta", theirs)).status_code == 201
    for tenant, bundle in (("acme", ours), ("beta", theirs)):
        answer = (await house.ask(house.keys[tenant], "POST", "/v1/intent/predict", TEXT)).json()
        assert answer["adapter"] == {"name": "intent", "version": 1, "digest": bundle.digest}
    assert (await house.ask(house.keys["acme"], "DELETE", "/admin/v1/adapters/intent")).status_code == 204
    assert (await house.ask(house.keys["beta"], "POST", "/v1/intent/predict", TEXT)).status_code == 200
    assert await house.names(house.keys["acme"]) == []


ROUTES = [
    ("POST", "/v1/{}/predict", TEXT),
    ("GET", "/v1/adapters/{}", None),
    ("GET", "/admin/v1/adapters/{}/versions", None),
    ("GET", "/admin/v1/adapters/{}/versions/1/bundle", None),
    ("GET", "/admin/v1/adapters/{}/versions/1/residency", None),
    ("PUT", "/admin/v1/adapters/{}/versions/1/residency", {"keep_resident": True}),
    ("GET", "/admin/v1/adapters/{}/aliases", None),
    ("GET", "/admin/v1/adapters/{}/aliases/production", None),
    ("PUT", "/admin/v1/adapters/{}/aliases/production", {"version": 1}),
    ("POST", "/admin/v1/adapters/{}/aliases/production/rollback", None),
    ("GET", "/admin/v1/adapters/{}/aliases/production/gates", None),
    ("DELETE", "/admin/v1/adapters/{}/aliases/production", None),
    ("DELETE", "/admin/v1/adapters/{}/versions/1", None),
    ("DELETE", "/admin/v1/adapters/{}", None),
]


def without_name(problem: dict[str, Any], name: str) -> dict[str, Any]:
    """A refusal as it would be for any name."""
    texts = {key: str(value).replace(name, "NAME") for key, value in problem.items()}
    return texts | {"request_id": ""}


@pytest.mark.parametrize(("method", "url", "body"), ROUTES)
async def test_an_adapter_of_others_is_as_one_that_is_not_there(
    house: House, bundles: Any, method: str, url: str, body: Any
) -> None:
    """The same answer by the same way: the same questions to the database, in the same order."""
    assert (await house.upload("beta", bundles("intent"))).status_code == 201
    await house.names(house.keys["acme"])  # from here on the key is remembered
    seen = []
    for name in ("intent", "nobody", "beta:intent", "beta:nobody", "none:intent"):
        with statements(house.server) as asked:
            refused = await house.ask(house.keys["acme"], method, url.format(name), body)
        assert (refused.status_code, refused.json()["code"]) == (404, "adapter_not_found"), refused.text
        seen.append((without_name(refused.json(), name), asked))
    assert seen[0] == seen[1]
    assert seen[0][1]
    assert seen[2] == seen[3] == seen[4]
    assert seen[2][1] == []
    assert (await house.ask(house.keys["beta"], "POST", "/v1/intent/predict", TEXT)).status_code == 200


async def test_a_fan_out_shows_nothing_of_others(house: House, bundles: Any) -> None:
    await house.upload("beta", bundles("intent"))
    await house.upload("acme", bundles("own"))
    body = TEXT | {"adapters": ["own", "intent", "beta:intent", "beta:nobody"]}
    results = (await house.ask(house.keys["acme"], "POST", "/v1/predict", body)).json()["results"]
    assert [key for key, result in results.items() if "error" not in result] == ["own@1"]
    assert {result["error"]["code"] for result in results.values() if "error" in result} == {"adapter_not_found"}


async def test_an_upload_to_others_is_refused_unread(house: House, bundles: Any) -> None:
    refused = await house.upload("acme", bundles("intent"), "beta:intent")
    assert (refused.status_code, refused.json()["code"]) == (404, "adapter_not_found")
    assert await house.names(house.keys["beta"]) == []


async def test_an_admin_of_all_reaches_every_tenant(house: House, bundles: Any) -> None:
    bundle = bundles("intent")
    await house.upload("beta", bundle)
    await house.upload("acme", bundles("intent", seed=3))
    for method, url, body in [route for route in ROUTES if route[0] != "DELETE" and "rollback" not in route[1]]:
        answer = await house.ask(house.admin, method, url.format("beta:intent"), body)
        assert answer.status_code == (404 if url.endswith("production") and method == "GET" else 200), answer.text
    both = TEXT | {"adapters": ["acme:intent", "beta:intent"]}
    results = (await house.ask(house.admin, "POST", "/v1/predict", both)).json()["results"]
    assert (
        results["beta:intent@1"]["adapter"]["digest"] == bundle.digest != results["acme:intent@1"]["adapter"]["digest"]
    )
    assert await house.names(house.admin, tenant="beta") == ["intent"]
    assert await house.names(house.admin) == []
    missing = await house.ask(house.admin, "POST", "/v1/none:intent/predict", TEXT)
    assert (missing.status_code, missing.json()["code"]) == (404, "adapter_not_found")
    assert (await house.server.upload(bundles("added"), "beta:added", **house.admin)).status_code == 201
    assert await house.names(house.keys["beta"]) == ["added", "intent"]


async def test_lists_of_others_are_refused_whether_they_are_there_or_not(house: House) -> None:
    manager = await house.make_key("acme", ["tenant:admin"])
    for url in ("/v1/adapters?tenant={}", f"{KEYS}?tenant={{}}"):
        problems = []
        for name in ("beta", "none"):
            refused = await house.ask(manager, "GET", url.format(name))
            assert (refused.status_code, refused.json()["code"]) == (404, "tenant_not_found")
            problems.append(without_name(refused.json(), name))
        assert problems[0] == problems[1]


async def test_a_disabled_tenant_is_refused_and_keeps_what_it_has(house: House, bundles: Any) -> None:
    await house.upload("acme", bundles("intent"))
    assert (await house.ask(house.admin, "PATCH", f"{TENANTS}/acme", {"disabled": True})).json()["disabled_at"]
    refused = await house.ask(house.keys["acme"], "POST", "/v1/intent/predict", TEXT)
    assert (refused.status_code, refused.json()["code"]) == (403, "tenant_disabled")
    assert await house.names(house.admin, tenant="acme") == ["intent"]
    assert (await house.ask(house.admin, "PATCH", f"{TENANTS}/acme", {"disabled": False})).json()["disabled_at"] is None
    assert (await house.ask(house.keys["acme"], "POST", "/v1/intent/predict", TEXT)).status_code == 200


async def test_the_tenant_with_the_last_admin_stays(house: House) -> None:
    refused = await house.ask(house.admin, "PATCH", f"{TENANTS}/default", {"disabled": True, "weight": 7})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    shown = (await house.ask(house.admin, "GET", f"{TENANTS}/default")).json()
    assert (shown["disabled_at"], shown["weight"]) == (None, 1.0)
    other = await house.make_key("acme", ["admin"])
    assert (await house.ask(other, "PATCH", f"{TENANTS}/default", {"disabled": True})).status_code == 200


async def test_a_tenants_admin_manages_its_own_keys_only(house: House) -> None:
    manager = await house.make_key("acme", ["tenant:admin"])
    theirs = (await house.ask(house.admin, "GET", f"{KEYS}?tenant=beta")).json()["data"][0]["id"]
    for method, url, body in (
        ("POST", KEYS, {"tenant": "beta", "scopes": ["predict"]}),
        ("GET", f"{KEYS}?tenant=beta", None),
        ("DELETE", f"{KEYS}/{theirs}?tenant=beta", None),
        ("DELETE", f"{KEYS}/{theirs}", None),
    ):
        assert (await house.ask(manager, method, url, body)).status_code == 404
    own = (await house.ask(manager, "GET", KEYS)).json()["data"]
    assert {key["tenant"] for key in own} == {"acme"}
    assert theirs not in [key["id"] for key in own]
    assert (await house.ask(house.admin, "DELETE", f"{KEYS}/{theirs}?tenant=beta")).status_code == 204
    refused = await house.ask(house.keys["beta"], "GET", "/v1/adapters")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_key")


async def test_a_key_is_limited_to_its_patterns(house: House, bundles: Any) -> None:
    for name in ("team-a.x", "team-a.y", "team_a.x", "other"):
        assert (await house.upload("acme", bundles(name))).status_code == 201
    limited = await house.make_key("acme", adapters=["team-a.*"])
    assert await house.names(limited, limit=1) == ["team-a.x", "team-a.y"]
    assert (await house.ask(limited, "POST", "/v1/team-a.x/predict", TEXT)).status_code == 200
    problems = []
    for name in ("other", "nobody"):
        refused = await house.ask(limited, "POST", f"/v1/{name}@latest/predict", TEXT)
        assert refused.status_code == 404
        problems.append(without_name(refused.json(), name))
    assert problems[0] == problems[1]
    refused = await house.server.upload(bundles("other"), **limited)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "team-a.*" in refused.json()["detail"]
    assert (await house.server.upload(bundles("team-a.z"), **limited)).status_code == 201


async def test_a_tenants_patterns_hold_for_all_of_its_keys(house: House, bundles: Any) -> None:
    await house.upload("acme", bundles("a1"))
    await house.upload("acme", bundles("b1"))
    await house.ask(house.admin, "PATCH", f"{TENANTS}/acme", {"adapters": ["a*", "c?"]})
    assert await house.names(house.keys["acme"]) == ["a1"]
    limited = await house.make_key("acme", adapters=["*1"])
    assert (await house.server.upload(bundles("c1"), **limited)).status_code == 201
    assert (await house.server.upload(bundles("c2"), **limited)).status_code == 403
    assert await house.names(limited) == ["a1", "c1"]


@pytest.mark.parametrize("scope", ["tenant:admin", "admin"])
async def test_who_manages_keys_is_not_limited(house: House, scope: str) -> None:
    body = {"scopes": ["predict", scope], "adapters": ["a*"]}
    refused = await house.ask(house.admin, "POST", KEYS, body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "a", True),
        ("a*", "ab.c-d_e", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a_c", "abc", False),
        ("a.c", "abc", False),
        ("*_x", "a_x", True),
        ("*_x", "a-x", False),
    ],
)
async def test_patterns_mean_the_same_in_sql(house: House, bundles: Any, pattern: str, name: str, fits: bool) -> None:
    await house.upload("acme", bundles(name))
    assert is_any((pattern,), name) is fits
    found, _ = await house.server.registry.list_adapters("acme", 10, patterns=[(pattern,)])
    assert [adapter.name for adapter in found] == [name] * fits
