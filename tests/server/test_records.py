"""The audit log and the usage: who may read them, that they come in pages, and that a restart loses nothing."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from prefixrack.types import UsageLine
from prefixrack_server.usage import LINES_AT_ONCE, SECONDS_A_DAY, UsageCounter

AUDIT = "/admin/v1/audit"
USAGE = "/admin/v1/usage"


async def used(server: Any, **params: Any) -> list[dict[str, Any]]:
    await server.app.state.services.predictor.usage.flush()
    lines: list[dict[str, Any]] = (await server.client.get(USAGE, params=params)).json()["data"]
    return lines


async def test_every_change_is_on_record_with_its_request(server: Any, bundles: Any) -> None:
    headers = {"X-Request-Id": "req-1"}
    await server.upload(bundles("intent"), **headers)
    alias = "/admin/v1/adapters/intent/aliases/production"
    await server.client.put(alias, json={"version": 1}, headers=headers)
    await server.client.put(
        "/admin/v1/adapters/intent/versions/1/residency", json={"keep_resident": True}, headers=headers
    )
    key = (await server.client.post("/admin/v1/keys", json={"scopes": ["predict"]}, headers=headers)).json()
    await server.client.delete(f"/admin/v1/keys/{key['id']}", headers=headers)
    await server.client.delete(alias, headers=headers)
    await server.client.delete("/admin/v1/adapters/intent", headers=headers)
    lines = (await server.client.get(AUDIT)).json()["data"]
    assert [(line["action"], line["target"]) for line in lines if line["request_id"] == "req-1"] == [
        ("adapter.delete", "intent"),
        ("alias.delete", "intent@production"),
        ("key.revoke", key["id"]),
        ("key.create", key["id"]),
        ("version.keep", "intent@1"),
        ("alias.put", "intent@production"),
        ("version.add", "intent@1"),
    ]
    assert key["secret"] not in json.dumps(lines)


async def test_what_was_refused_is_not_on_record(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    before = (await server.client.get(AUDIT)).json()
    await server.client.put("/admin/v1/adapters/intent/aliases/production", json={"version": 9})
    await server.client.delete("/admin/v1/adapters/nobody")
    assert (await server.client.get(AUDIT)).json() == before


async def test_the_audit_log_comes_in_pages_newest_first(server: Any, bundles: Any) -> None:
    for name in ("a", "b", "c"):
        await server.upload(bundles(name))
    whole = (await server.client.get(AUDIT)).json()["data"]
    found, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await server.client.get(AUDIT, params=params)).json()
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == whole
    assert [line["id"] for line in found] == sorted((line["id"] for line in found), reverse=True)
    adds = (await server.client.get(AUDIT, params={"action": "version."})).json()["data"]
    assert [line["target"] for line in adds] == ["c@1", "b@1", "a@1"]


async def test_the_audit_log_of_one_adapter(server: Any, bundles: Any) -> None:
    """However much was done to others since, and to those whose names begin like it."""
    for name in ("a", "a.b", "a_b", "ab"):
        await server.upload(bundles(name))
    await server.client.put("/admin/v1/adapters/a/aliases/production", json={"version": 1})
    await server.client.delete("/admin/v1/adapters/a_b")
    lines = (await server.client.get(AUDIT, params={"adapter": "a", "limit": 2})).json()
    assert [line["target"] for line in lines["data"]] == ["a@production", "a@1"]
    assert lines["next_cursor"] is None
    lines = (await server.client.get(AUDIT, params={"adapter": "a_b"})).json()
    assert [line["action"] for line in lines["data"]] == ["adapter.delete", "version.add"]


@pytest.mark.parametrize("url", [AUDIT, USAGE])
@pytest.mark.parametrize("params", [{"cursor": "x"}, {"limit": 0}, {"limit": 1001}])
async def test_pages_that_are_none(server: Any, url: str, params: Any) -> None:
    refused = await server.client.get(url, params=params)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_records_of_others_are_as_those_of_nobody(serving: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        for tenant in ("acme", "beta"):
            await server.registry.create_tenant(tenant)
        reader = await server.registry.create_key("acme", ["predict", "adapters:read"])
        manager = await server.registry.create_key("acme", ["tenant:admin"])
        for url in (AUDIT, USAGE):
            assert (await server.client.get(url, headers={"X-API-Key": reader.secret})).status_code == 403
            own = await server.client.get(url, headers={"X-API-Key": manager.secret})
            assert {line["tenant"] for line in own.json()["data"]} <= {"acme"}
            for tenant in ("beta", "none"):
                headers = {"X-API-Key": manager.secret}
                refused = await server.client.get(url, params={"tenant": tenant}, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (404, "tenant_not_found")


async def test_changes_have_the_names_of_the_keys_that_made_them(serving: Any) -> None:
    """Of one that is revoked too. What operators call their keys is no business of a tenant's."""
    async with serving(http={"auth": "keys"}) as server:
        await server.registry.create_tenant("acme")
        operator, successor = [await server.registry.create_key("default", ["admin"], name=f"ops {n}") for n in (1, 2)]
        manager = await server.registry.create_key("acme", ["tenant:admin"], name="Ada's laptop")
        nameless = await server.registry.create_key("acme", ["tenant:admin"])
        for key in (operator, manager, nameless):
            body = {"scopes": ["predict"], "tenant": "acme"}
            made = await server.client.post("/admin/v1/keys", json=body, headers={"X-API-Key": key.secret})
            assert made.status_code == 201
        await server.registry.revoke_key("acme", manager.id)
        await server.registry.revoke_key("default", operator.id, may_revoke_admins=True)

        async def names(reader: Any) -> dict[str, str | None]:
            headers, params = {"X-API-Key": reader.secret}, {"tenant": "acme", "action": "key.create"}
            lines = (await server.client.get(AUDIT, params=params, headers=headers)).json()["data"]
            return {line["key_id"]: line["key_name"] for line in lines}

        seen = await names(nameless)
        assert {key.id: seen[key.id] for key in (operator, manager, nameless)} == {
            operator.id: None,
            manager.id: "Ada's laptop",
            nameless.id: None,
        }
        assert await names(successor) == seen | {operator.id: "ops 1"}


async def test_usage_is_what_the_answers_said(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    await server.upload(bundles("other"))
    said = [(await server.predict("intent", inputs)).json()["usage"] for inputs in ("hello", ["hello", "good bad"])]
    body = {"adapters": ["intent", "other"], "inputs": "hello"}
    fanned = (await server.client.post("/v1/predict", json=body)).json()["usage"]
    (intent, other) = await used(server)
    assert (intent["adapter"], intent["requests"], other["adapter"], other["requests"]) == ("intent", 3, "other", 1)
    for unit in ("rows", "tokens"):
        assert intent[unit] + other[unit] == sum(usage[unit] for usage in (*said, fanned))


async def test_a_bulk_body_is_one_request_of_many_rows(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    lines = '{"inputs": "hello"}\n{"inputs": ""}\n{"inputs": "good bad"}\n'
    headers = {"Content-Type": "application/jsonl"}
    assert (await server.client.post("/v1/intent/predict", content=lines, headers=headers)).status_code == 200
    (line,) = await used(server)
    assert (line["requests"], line["rows"]) == (1, 2)


async def test_what_is_refused_is_not_used(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    await server.predict("intent", "")
    await server.predict("nobody", "hello")
    assert await used(server) == []


async def test_usage_outlives_the_process(serving: Any, bundles: Any) -> None:
    for num_requests in (1, 2):
        async with serving() as server:
            await server.upload(bundles("intent"))
            await server.predict("intent", "hello")
        async with serving() as server:
            (line,) = (await server.client.get(USAGE)).json()["data"]
            assert (line["adapter"], line["requests"]) == ("intent", num_requests)


async def test_an_admin_of_all_uses_for_its_own_tenant(serving: Any, bundles: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        admin = {"X-API-Key": await server.registry.ensure_admin_key()}
        await server.registry.create_tenant("acme")
        assert (await server.upload(bundles("intent"), "acme:intent", **admin)).status_code == 201
        await server.client.post("/v1/acme:intent/predict", json={"inputs": "hello"}, headers=admin)
        await server.app.state.services.predictor.usage.flush()
        (line,) = (await server.client.get(USAGE, headers=admin)).json()["data"]
        assert (line["tenant"], line["adapter"]) == ("default", "acme:intent")
        assert (await server.client.get(USAGE, params={"tenant": "acme"}, headers=admin)).json()["data"] == []


def line(day: str, adapter: str = "a", requests: int = 1) -> UsageLine:
    return UsageLine(tenant="default", day=day, adapter=adapter, requests=requests, rows=2, tokens=3)


async def test_usage_by_days_in_pages_and_as_csv(server: Any) -> None:
    days = ["2026-01-01", "2026-01-02", "2026-01-03"]
    await server.registry.add_usage([line(day, adapter) for day in reversed(days) for adapter in ("b", "a")])
    await server.registry.add_usage([line(days[1], "a", requests=4)])
    whole = await used(server)
    assert [(entry["day"], entry["adapter"]) for entry in whole] == [(day, name) for day in days for name in ("a", "b")]
    assert whole[2] == {"tenant": "default", "day": days[1], "adapter": "a", "requests": 5, "rows": 4, "tokens": 6}
    assert await used(server, since=days[1], until=days[1]) == whole[2:4]
    first = (await server.client.get(USAGE, params={"limit": 3})).json()
    rest = (await server.client.get(USAGE, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert first["data"] + rest["data"] == whole
    answer = await server.client.get(USAGE, params={"format": "csv", "since": days[1]})
    assert answer.headers["content-type"].startswith("text/csv")
    read = list(csv.DictReader(io.StringIO(answer.text)))
    assert read == [{name: str(value) for name, value in entry.items()} for entry in whole[2:]]


async def test_a_long_csv_has_every_line(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixrack_server.routes.records.LINES_A_CHUNK", 2)
    await server.registry.add_usage([line("2026-01-01", f"a{number}") for number in range(5)])
    answer = await server.client.get(USAGE, params={"format": "csv"})
    assert [row["adapter"] for row in csv.DictReader(io.StringIO(answer.text))] == [f"a{number}" for number in range(5)]


async def test_usage_is_no_change_of_the_registry(server: Any) -> None:
    """Or every ten seconds all servers would forget what they know."""
    revision = await server.registry.revision()
    await server.registry.add_usage([line("2026-01-01")])
    assert await server.registry.revision() == revision


class Ledger:
    """A registry that can be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.lines: list[UsageLine] = []
        self.sizes: list[int] = []

    async def add_usage(self, lines: list[UsageLine]) -> None:
        if self.is_away:
            raise ConnectionError("away")
        self.lines += lines
        self.sizes.append(len(lines))


async def test_what_cannot_be_written_is_kept() -> None:
    ledger: Any = Ledger()
    counter = UsageCounter(ledger, clock=lambda: 0.0)
    counter.add("acme", "a", 1, 2, 3)
    ledger.is_away = True
    with pytest.raises(ConnectionError):
        await counter.flush()
    counter.add("acme", "a", 1, 1, 1)
    ledger.is_away = False
    await counter.flush()
    await counter.flush()
    assert ledger.lines == [UsageLine(tenant="acme", day="1970-01-01", adapter="a", requests=2, rows=3, tokens=4)]


async def test_days_end_at_midnight() -> None:
    ledger: Any = Ledger()
    now = [1.5 * SECONDS_A_DAY]
    counter = UsageCounter(ledger, clock=lambda: now[0])
    counter.add("acme", "a", 1, 1, 1)
    now[0] = 2.0 * SECONDS_A_DAY
    counter.add("acme", "a", 1, 1, 1)
    await counter.flush()
    assert [entry.day for entry in ledger.lines] == ["1970-01-02", "1970-01-03"]


async def test_much_is_written_in_pieces() -> None:
    ledger: Any = Ledger()
    counter = UsageCounter(ledger)
    for number in range(LINES_AT_ONCE * 2 + 1):
        counter.add("acme", f"a{number}", 1, 1, 1)
    await counter.flush()
    assert ledger.sizes == [LINES_AT_ONCE, LINES_AT_ONCE, 1]
