from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefixrack.errors import Conflict, InvalidKey, InvalidRequest, KeyNotFound, TenantNotFound
from prefixrack.types import KeyInfo
from prefixrack_server.admin_key import show_admin_key
from prefixrack_server.config import ServerConfig
from prefixrack_server.registry import Actor, LocalBlobStore, Registry
from prefixrack_server.registry.database import as_text
from prefixrack_server.registry.keys import SCOPES

START = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def clock(self) -> datetime:
        return START + timedelta(seconds=self.passed_s)

    def timer(self) -> float:
        return self.passed_s


@pytest.fixture
def time() -> Time:
    return Time()


async def open_registry(folder: Path, time: Time) -> Registry:
    url = f"sqlite+aiosqlite:///{folder / 'registry.sqlite3'}"
    return await Registry.open(url, LocalBlobStore(folder / "blobs"), clock=time.clock, timer=time.timer)


async def listed(registry: Registry) -> list[KeyInfo]:
    return (await registry.list_keys("default", 100))[0]


def database_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("registry.sqlite3*"))


@pytest.fixture
async def registry(tmp_path: Path, time: Time) -> AsyncIterator[Registry]:
    registry = await open_registry(tmp_path, time)
    yield registry
    await registry.close()


async def test_a_key_is_known_by_its_secret(registry: Registry) -> None:
    made = await registry.create_key("default", ["predict", "adapters:read"])
    assert made.secret is not None
    assert re.fullmatch(rf"pr_{made.id}_[A-Za-z0-9_-]{{43}}", made.secret)
    principal = await registry.authenticate(made.secret)
    assert (principal.key_id, principal.tenant) == (made.id, "default")
    assert principal.scopes == {"predict", "adapters:read"}


async def test_no_secret_rests_on_disk_or_in_memory(registry: Registry, tmp_path: Path) -> None:
    made = await registry.create_key("default", ["predict"])
    assert made.secret is not None
    await registry.authenticate(made.secret)
    secret = made.secret.removeprefix(f"pr_{made.id}_")
    assert secret.encode() not in database_bytes(tmp_path)
    assert secret not in repr(vars(registry._grants))
    assert [info.secret for info in await listed(registry)] == [None]


async def test_a_wrong_secret_for_a_known_id_is_refused(registry: Registry) -> None:
    made = await registry.create_key("default", ["predict"])
    with pytest.raises(InvalidKey, match="not known"):
        await registry.authenticate(f"pr_{made.id}_{'A' * 43}")


@pytest.mark.parametrize(
    "key", ["", "hunter2", "pr__", "pr_0123456789ab_" + "A" * 42, "pr_0123456789ab_" + "é" * 43, "pr_x\ud800", "\0"]
)
async def test_what_is_no_key_is_refused_without_repeating_it(registry: Registry, key: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        await registry.authenticate(key)
    assert not key or key not in caught.value.detail


async def test_a_revoked_key_is_refused_at_once(registry: Registry) -> None:
    made = await registry.create_key("default", ["predict"])
    await registry.authenticate(made.secret or "")
    await registry.revoke_key("default", made.id)
    with pytest.raises(InvalidKey, match="revoked"):
        await registry.authenticate(made.secret or "")
    assert await listed(registry) == []


async def test_a_remembered_key_expires_in_time(registry: Registry, time: Time) -> None:
    made = await registry.create_key("default", ["predict"], START + timedelta(seconds=2))
    await registry.authenticate(made.secret or "")
    time.passed_s = 2
    with pytest.raises(InvalidKey, match=r"expired at 2026-01-01T00:00:02\.000Z"):
        await registry.authenticate(made.secret or "")


@pytest.mark.parametrize("wait_s", [0.0, 6.0])
async def test_a_revocation_elsewhere_is_seen(registry: Registry, tmp_path: Path, time: Time, wait_s: float) -> None:
    made = await registry.create_key("default", ["predict"])
    await registry.authenticate(made.secret or "")
    other = await open_registry(tmp_path, time)
    await other.revoke_key("default", made.id)
    await other.close()
    time.passed_s = wait_s
    if not wait_s:
        await registry.refresh()
    with pytest.raises(InvalidKey, match="revoked"):
        await registry.authenticate(made.secret or "")


async def test_the_first_admin_key_is_made_once(registry: Registry, tmp_path: Path, time: Time) -> None:
    secret = await registry.ensure_admin_key()
    assert secret is not None
    principal = await registry.authenticate(secret)
    assert principal.scopes == {"admin"}
    assert await registry.ensure_admin_key() is None
    await registry.new_admin_key()
    made, _ = await registry.list_keys("default", 10)
    assert sorted(key.name or "" for key in made) == ["admin made at a start", "first admin"]
    await registry.revoke_key("default", principal.key_id)
    again = await open_registry(tmp_path, time)
    assert await again.ensure_admin_key() is None
    await again.close()


async def test_the_last_admin_key_stays(registry: Registry, time: Time) -> None:
    first = await registry.authenticate(await registry.ensure_admin_key() or "")
    await registry.create_key("default", ["tenant:admin"])
    short = await registry.create_key("default", ["admin"], START + timedelta(seconds=2))
    time.passed_s = 2
    with pytest.raises(Conflict, match="last with the scope 'admin'"):
        await registry.revoke_key("default", first.key_id)
    await registry.revoke_key("default", short.id)
    second = await registry.authenticate(await registry.new_admin_key() or "")
    assert second.scopes == {"admin"}
    await registry.revoke_key("default", first.key_id)


async def test_a_new_admin_key_is_shown_on_demand(
    registry: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ServerConfig(registry={"state_dir": tmp_path})
    shown = []
    for is_new_wanted in (False, False, True):
        await show_admin_key(config, registry, is_new_wanted)
        shown.append(set(re.findall(r"pr_[0-9a-f]+_[\w-]{43}", capsys.readouterr().out)))
    assert [len(secrets) for secrets in shown] == [1, 0, 1]
    assert shown[0] != shown[2]
    for secret in shown[0] | shown[2]:
        assert (await registry.authenticate(secret)).scopes == {"admin"}


@pytest.mark.parametrize("scopes", [[], ["predict", "root"]])
async def test_unknown_scopes_are_refused(registry: Registry, scopes: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="adapters:write"):
        await registry.create_key("default", scopes)
    assert await listed(registry) == []


async def test_every_scope_can_be_given(registry: Registry) -> None:
    made = await registry.create_key("default", SCOPES)
    assert set(made.scopes) == SCOPES


async def test_the_list_comes_in_pages_and_outlasts_revocations(registry: Registry, time: Time) -> None:
    """Two keys of one moment among them: their ids decide."""
    await registry.create_tenant("acme")
    await registry.create_key("acme", ["predict"])
    made = []
    for passed_s in (0.0, 1.0, 1.0, 2.0):
        time.passed_s = passed_s
        made.append(await registry.create_key("default", ["predict"]))
    wanted = [key.id for key in sorted(made, key=lambda key: (key.created_at, key.id))]
    first, cursor = await registry.list_keys("default", 2)
    await registry.revoke_key("default", wanted[1])
    rest, end = await registry.list_keys("default", 2, cursor)
    assert [key.id for key in [*first, *rest]] == wanted
    assert (cursor, end) == (wanted[1], None)
    assert [key.id for key in await listed(registry)] == [wanted[0], *wanted[2:]]


async def test_a_cursor_of_another_list_is_refused(registry: Registry) -> None:
    await registry.create_tenant("acme")
    of_others = await registry.create_key("acme", ["predict"])
    for cursor in ("", "intent", of_others.id):
        with pytest.raises(InvalidRequest, match="next_cursor"):
            await registry.list_keys("default", 10, cursor)


def secret_of(key: KeyInfo) -> str:
    assert key.secret is not None
    return key.secret


async def test_a_rotated_key_and_its_successor_hold_until_the_first_is_revoked(registry: Registry, time: Time) -> None:
    end = START + timedelta(days=90)
    old = await registry.create_key("default", ["predict"], end, ["mail.*"], name="mails")
    time.passed_s = 86400.0
    new = await registry.rotate_key("default", old.id, by=Actor("admin"))
    assert (new.scopes, new.adapters, new.name, new.replaces) == (["predict"], ["mail.*"], "mails", old.id)
    assert new.expires_at == as_text(end + timedelta(days=1))  # made for ninety days, as the first one was
    for key in (old, new):
        assert (await registry.authenticate(secret_of(key))).key_id == key.id
    with pytest.raises(Conflict, match=f"successor {new.id} both hold: revoke {old.id}"):
        await registry.rotate_key("default", old.id)
    lines, _ = await registry.list_audit("default", 1)
    assert (lines[0].action, lines[0].target, lines[0].detail["successor"]) == ("key.rotate", old.id, new.id)
    assert secret_of(new) not in lines[0].model_dump_json()
    await registry.revoke_key("default", old.id)
    with pytest.raises(InvalidKey, match="revoked"):
        await registry.authenticate(secret_of(old))
    assert (await registry.rotate_key("default", new.id)).replaces == new.id


async def test_a_rotated_key_may_end_by_itself(registry: Registry, time: Time) -> None:
    old = await registry.create_key("default", ["predict"])
    new = await registry.rotate_key("default", old.id, timedelta(hours=1))
    assert new.expires_at is None
    assert (await registry.authenticate(secret_of(old))).key_id == old.id
    time.passed_s = 3600.0
    with pytest.raises(InvalidKey, match="expired"):
        await registry.authenticate(secret_of(old))
    with pytest.raises(Conflict, match="revoked or has expired"):
        await registry.rotate_key("default", old.id)
    assert (await registry.authenticate(secret_of(new))).key_id == new.id


async def test_an_overlap_makes_no_key_last_longer(registry: Registry) -> None:
    old = await registry.create_key("default", ["predict"], START + timedelta(minutes=5))
    await registry.rotate_key("default", old.id, timedelta(hours=1))
    assert {key.id: key.expires_at for key in await listed(registry)}[old.id] == old.expires_at


async def test_the_last_admin_can_be_rotated(registry: Registry) -> None:
    secret = await registry.ensure_admin_key()
    assert secret is not None
    first = await registry.authenticate(secret)
    await registry.rotate_key("default", first.key_id)
    await registry.revoke_key("default", first.key_id)
    with pytest.raises(KeyNotFound):
        await registry.rotate_key("default", "nope")


async def test_an_unknown_key_cannot_be_revoked(registry: Registry) -> None:
    with pytest.raises(KeyNotFound, match="'nope'"):
        await registry.revoke_key("default", "nope")


async def test_keys_of_another_tenant_are_out_of_reach(registry: Registry) -> None:
    await registry.create_tenant("acme")
    made = await registry.create_key("acme", ["predict"])
    assert (await registry.authenticate(made.secret or "")).tenant == "acme"
    assert await listed(registry) == []
    with pytest.raises(KeyNotFound):
        await registry.revoke_key("default", made.id)


async def test_a_key_for_an_unknown_tenant_is_refused(registry: Registry) -> None:
    with pytest.raises(TenantNotFound, match="no tenant 'acme'"):
        await registry.create_key("acme", ["predict"])
