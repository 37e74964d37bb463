"""A registry that a file declares: it is followed as it changes, and nobody else changes an adapter."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from prefixrack.errors import RegistryUnavailable
from prefixrack_server import app as app_module
from prefixrack_server import declared
from prefixrack_server.declared import TURNS_TO_RETRY, DeclarationFault, Follower, read_declaration


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turns but those that a test takes."""
    monkeypatch.setattr(app_module, "POLL_S", 3600.0)


class File:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **adapters: Any) -> None:
        self.path.write_text(json.dumps({"adapters": adapters}), encoding="utf-8")


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "registry.json")


def version_of(bundle: Any) -> dict[str, str]:
    return {"source": f"file://{bundle.folder}", "digest": bundle.digest}


def follower_of(server: Any) -> Follower:
    follower = app_module.follower_of(server.app.state.services)
    assert follower is not None
    return follower


async def test_the_registry_holds_what_the_file_says(serving: Any, file: File, bundles: Any) -> None:
    one, two, three = (bundles("intent", seed=seed) for seed in (1, 2, 3))
    ner = bundles("ner", "token-classification")
    file.write(
        intent={
            "versions": {"1": version_of(one), "4": version_of(two)},
            "aliases": {"production": {"version": 1, "canary": {"version": 4, "share": 0.5}}},
        },
        ner={"versions": {"1": version_of(ner)}},
    )
    async with serving(registry={"declared": file.path}) as server:
        assert await server.names() == [("intent", 1, 2), ("ner", 1, 1)]
        assert (await server.predict("intent@4", "hello")).json()["adapter"]["digest"] == two.digest
        alias = await server.registry.get_alias("default", "intent", "production")
        assert (alias.version, alias.canary.version) == (1, 4)
        file.write(
            intent={
                "versions": {"4": version_of(two), "5": version_of(three)},
                "aliases": {"production": {"version": 5}, "old": {"version": 4}},
            }
        )
        follower = follower_of(server)
        await follower.turn()
        assert await server.names() == [("intent", 5, 2)]
        assert [info.alias for info in await server.registry.list_aliases("default", "intent")] == [
            "latest",
            "old",
            "production",
        ]
        assert (await server.predict("intent", "hello")).json()["adapter"]["digest"] == three.digest
        assert (await server.predict("ner", "hello")).status_code == 404
        revision = await server.registry.revision()
        await follower.turn()
        assert await server.registry.revision() == revision  # nothing has changed, so nothing is done
    async with serving(registry={"declared": file.path}) as server:
        assert await server.names() == [("intent", 5, 2)]


async def test_nobody_else_changes_an_adapter(serving: Any, file: File, bundles: Any) -> None:
    bundle = bundles("intent")
    file.write(intent={"versions": {"1": version_of(bundle)}})
    async with serving(registry={"declared": file.path}) as server:
        base = "/admin/v1/adapters/intent"
        for refused in (
            await server.upload(bundles("other", seed=5)),
            await server.client.put(f"{base}/aliases/production", json={"version": 1}),
            await server.client.post(f"{base}/aliases/production/rollback"),
            await server.client.delete(f"{base}/versions/1"),
            await server.client.delete(base),
        ):
            assert (refused.status_code, refused.json()["code"]) == (409, "registry_read_only")
            assert "registry.json" in refused.json()["detail"]
        assert (await server.client.get(f"{base}/versions")).status_code == 200
        wish = await server.client.put(f"{base}/versions/1/residency", json={"keep_resident": True})
        assert wish.status_code == 200
        assert await server.names() == [("intent", 1, 1)]


async def test_what_cannot_be_had_leaves_the_rest(serving: Any, file: File, bundles: Any) -> None:
    good, bad = bundles("good", seed=1), bundles("bad", seed=2)
    file.write(
        bad={"versions": {"1": {**version_of(bad), "digest": "0" * 64}}},
        gone={"versions": {"1": {"source": f"file://{bad.folder}-gone", "digest": bad.digest}}},
        good={"versions": {"1": version_of(good)}},
    )
    async with serving(registry={"declared": file.path}) as server:
        assert await server.names() == [("good", 1, 1)]
        file.write(bad={"versions": {"1": version_of(bad)}}, good={"versions": {"1": version_of(bad)}})
        await follower_of(server).turn()
        assert await server.names() == [("bad", 1, 1), ("good", 1, 1)]
        kept = await server.registry.resolve("default", "good@1")
        assert kept.digest == good.digest  # a number is one version for good


async def test_a_turn_that_fails_is_taken_again(
    serving: Any, file: File, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_arguments: object) -> None:
        raise RegistryUnavailable("the database is away")

    intent, ner = version_of(bundles("intent")), version_of(bundles("ner"))
    file.write(intent={"versions": {"1": intent}}, ner={"versions": {"1": ner}})
    async with serving(registry={"declared": file.path}) as server:
        follower = follower_of(server)
        file.write(intent={"versions": {"1": intent}})
        with monkeypatch.context() as patch:
            patch.setattr(server.registry, "list_adapters", away)
            with pytest.raises(RegistryUnavailable):
                await follower.turn()
        assert len(await server.names()) == 2
        for _ in range(TURNS_TO_RETRY):
            await follower.turn()
        assert await server.names() == [("intent", 1, 1)]


async def test_front_ends_follow_one_file_at_once(serving: Any, file: File, bundles: Any) -> None:
    intent, ner, other = (version_of(bundles("intent", seed=seed)) for seed in (1, 2, 3))
    file.write(intent={"versions": {"1": intent}}, ner={"versions": {"1": ner}})
    async with serving(registry={"declared": file.path}) as server:
        followers = [follower_of(server) for _ in range(3)]
        file.write(
            intent={"versions": {"1": intent, "2": other}, "aliases": {"production": {"version": 2}}},
            other={"versions": {"7": other}},
        )
        await asyncio.gather(*(follower.turn() for follower in followers))
        for _ in range(TURNS_TO_RETRY):
            await followers[0].turn()
        assert await server.names() == [("intent", 2, 2), ("other", 7, 1)]


async def test_what_another_front_end_has_removed_meanwhile_is_no_fault(
    serving: Any, file: File, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent, ner = version_of(bundles("intent")), version_of(bundles("ner"))
    file.write(intent={"versions": {"1": intent}}, ner={"versions": {"1": ner}})
    async with serving(registry={"declared": file.path}) as server:
        digests = server.registry.digests

        async def remove_first(tenant: str, name: str) -> Any:
            found = await digests(tenant, name)
            if name == "ner":
                await server.registry.delete_adapter(tenant, name)
            return found

        monkeypatch.setattr(server.registry, "digests", remove_first)
        file.write(intent={"versions": {"1": intent}})
        await follower_of(server).turn()
        assert await server.names() == [("intent", 1, 1)]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"adapters": {"a": {"versions": {}}}}'])
async def test_a_file_that_is_not_right_changes_nothing(serving: Any, file: File, bundles: Any, content: str) -> None:
    file.write(intent={"versions": {"1": version_of(bundles("intent"))}})
    async with serving(registry={"declared": file.path}) as server:
        file.path.write_text(content, encoding="utf-8")
        with pytest.raises(DeclarationFault):
            await follower_of(server).turn()
        assert await server.names() == [("intent", 1, 1)]
    async with serving(registry={"declared": file.path}) as server:  # it starts all the same
        assert await server.names() == [("intent", 1, 1)]


async def test_a_file_that_is_gone_for_a_while_changes_nothing(
    serving: Any, file: File, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    intent, ner = version_of(bundles("intent")), version_of(bundles("ner"))
    file.write(intent={"versions": {"1": intent}})
    async with serving(registry={"declared": file.path}) as server:
        monkeypatch.setattr(declared.log, "error", lambda event, **_: said.append(event))
        follower = follower_of(server)
        file.path.unlink()
        for _ in range(TURNS_TO_RETRY):
            await follower.turn()
        assert await server.names() == [("intent", 1, 1)]
        assert said == ["the declared registry cannot be read"]
        file.write(intent={"versions": {"1": intent}}, ner={"versions": {"1": ner}})
        await follower.turn()
        assert await server.names() == [("intent", 1, 1), ("ner", 1, 1)]
    file.path.unlink()
    async with serving(registry={"declared": file.path}) as server:  # it starts all the same
        assert await server.names() == [("intent", 1, 1), ("ner", 1, 1)]


VERSION = {"source": "file:///x", "digest": "0" * 64}


@pytest.mark.parametrize(
    ("adapters", "word"),
    [
        ({"a": {"versions": {"0": VERSION}}}, "versions"),
        ({"a": {"versions": {"1": {"source": "file:///x"}}}}, "digest"),
        ({"a": {"versions": {"1": VERSION}, "alias": {}}}, "alias"),
        ({"a": {"versions": {"1": VERSION}, "aliases": {"production": {"version": 2}}}}, "names version 2"),
        ({"a": {"versions": {"1": VERSION}, "aliases": {"latest": {"version": 1}}}}, "moves by itself"),
        ({"../a": {"versions": {"1": VERSION}}}, "no adapter name"),
    ],
)
def test_what_a_file_may_not_say(adapters: Any, word: str) -> None:
    with pytest.raises(DeclarationFault, match=word):
        read_declaration(json.dumps({"adapters": adapters}).encode())
