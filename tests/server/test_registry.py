from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from prefixrack.errors import (
    AdapterNotFound,
    AliasNotFound,
    BlobUnusable,
    Conflict,
    IdempotencyConflict,
    InvalidName,
    InvalidRequest,
    PreconditionFailed,
    PreconditionRequired,
    VersionNotFound,
)
from prefixrack_adapters.bundle import digest_of
from prefixrack_adapters.manifest import (
    BackboneRef,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_server.holds import Holds
from prefixrack_server.registry import Actor, LocalBlobStore, Registry, Version, tables
from prefixrack_server.registry.garbage import blobs_of
from prefixrack_server.registry.transactions import Conn
from prefixrack_server.upload import SpooledBundle

TENANT = "default"


def manifest(labels: tuple[str, ...] = ("no", "yes")) -> Manifest:
    return Manifest(
        name="a",
        task="text-classification",
        labels=list(labels),
        backbone=BackboneRef(model_id="tiny", architecture="bert", fingerprint="0" * 64),
        prefix=PrefixSpec(prefix_len=4, num_layers=2, num_kv_heads=2, head_dim=4),
        head=HeadSpec(gather="first_token", layers=[DenseLayer(num_outputs=len(labels))]),
        tokenization=TokenizationSpec(max_len=32),
        provenance=Provenance(tool="test", tool_version="0", method="p-tuning-v2"),
    )


class Bench:
    """A registry on a temporary folder, with a clock that is moved by hand."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.blobs = LocalBlobStore(folder / "blobs")
        self.now = datetime.now(UTC)

    async def open(self) -> Registry:
        return await Registry.open(self.database_url, self.blobs, clock=lambda: self.now)

    def upload(self, seed: int, of: Manifest | None = None) -> SpooledBundle:
        tensors, manifest_bytes = f"tensors {seed}".encode(), (of or manifest()).to_bytes()
        path = self.folder / f"upload-{seed}.part"
        path.write_bytes(tensors)
        sha256s = [hashlib.sha256(content).hexdigest() for content in (manifest_bytes, tensors)]
        return SpooledBundle(manifest_bytes, path, sha256s[0], sha256s[1], len(tensors), digest_of(*sha256s), "# card")


@pytest.fixture
def bench(tmp_path: Path, database_url: str) -> Bench:
    return Bench(tmp_path, database_url)


@pytest.fixture
async def registry(bench: Bench) -> AsyncIterator[Registry]:
    registry = await bench.open()
    yield registry
    await registry.close()


async def add(registry: Registry, bench: Bench, seed: int, name: str = "a", key: str | None = None) -> Version:
    version, _ = await registry.add_version(TENANT, name, bench.upload(seed), manifest(), Actor("key1"), key)
    return version


async def number_of(registry: Registry, ref: str) -> int:
    return (await registry.resolve(TENANT, ref)).number


async def test_a_version_comes_back_as_it_was_uploaded(registry: Registry, bench: Bench) -> None:
    upload = bench.upload(1)
    made, is_new = await registry.add_version(TENANT, "a", upload, manifest(), Actor("key1"))
    assert (is_new, made.number, made.digest, made.size_bytes) == (True, 1, upload.digest, upload.size_bytes)
    assert (made.created_by, made.card, made.manifest) == ("key1", "# card", manifest())
    assert await registry.resolve(TENANT, "a@1") == made
    files = await registry.open_bundle_files(made)
    assert files.manifest_bytes == upload.manifest_bytes
    assert files.tensors_path.read_bytes() == b"tensors 1"
    assert files.card == "# card"


async def test_a_damaged_file_is_named_at_download(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1)
    bench.blobs.local_path(made.bundle.tensors_sha256).write_bytes(b"short")
    with pytest.raises(BlobUnusable, match="5 bytes instead of 9"):
        await registry.open_bundle_files(made)


async def test_latest_moves_by_itself_and_production_by_promotion(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    assert await number_of(registry, "a") == 1
    await add(registry, bench, 2)
    assert await number_of(registry, "a") == 2
    await registry.put_alias(TENANT, "a", "production", 1)
    await add(registry, bench, 3)
    assert await number_of(registry, "a") == 1
    assert await number_of(registry, "a@production") == 1
    assert await number_of(registry, "a@latest") == 3
    assert await number_of(registry, "a@2") == 2


async def test_what_is_not_there_is_named(registry: Registry, bench: Bench) -> None:
    for ref in ("a", "a@1", "a@latest", "a@production"):
        with pytest.raises(AdapterNotFound, match="'a'"):
            await registry.resolve(TENANT, ref)
    await add(registry, bench, 1)
    with pytest.raises(VersionNotFound, match="no version 2: its latest is 1"):
        await registry.resolve(TENANT, "a@2")
    with pytest.raises(AliasNotFound, match="no alias 'staging': use a@1"):
        await registry.resolve(TENANT, "a@staging")
    with pytest.raises(InvalidName):
        await registry.resolve(TENANT, "../a")


async def test_tenants_do_not_see_each_other(registry: Registry, bench: Bench) -> None:
    await registry.create_tenant("acme")
    await add(registry, bench, 1)
    with pytest.raises(AdapterNotFound):
        await registry.resolve("acme", "a")
    made, is_new = await registry.add_version("acme", "a", bench.upload(1), manifest(), Actor("key2"))
    assert (made.number, is_new) == (1, True)
    await registry.delete_adapter("acme", "a")
    assert await number_of(registry, "a") == 1


@pytest.mark.parametrize("name", ["predict", "A", "../a"])
async def test_bad_names_leave_nothing(registry: Registry, bench: Bench, name: str) -> None:
    with pytest.raises(InvalidName):
        await add(registry, bench, 1, name)
    assert await registry.list_adapters(TENANT, 10) == ([], None)
    assert list((bench.folder / "blobs").iterdir()) == []


async def test_the_same_digest_is_the_existing_version(registry: Registry, bench: Bench) -> None:
    first = await add(registry, bench, 1)
    await add(registry, bench, 2)
    again, is_new = await registry.add_version(TENANT, "a", bench.upload(1), manifest(), Actor("key2"))
    assert (again, is_new) == (first, False)
    assert await number_of(registry, "a") == 2


async def test_two_uploads_at_once_get_two_numbers(registry: Registry, bench: Bench) -> None:
    made = await asyncio.gather(*(add(registry, bench, seed) for seed in range(8)))
    assert sorted(version.number for version in made) == list(range(1, 9))


async def test_two_uploads_at_once_of_the_same_digest_are_one(registry: Registry, bench: Bench) -> None:
    upload = bench.upload(1)
    uploads = (registry.add_version(TENANT, "a", upload, manifest(), Actor("key1")) for _ in range(8))
    made = await asyncio.gather(*uploads)
    assert {version.number for version, _ in made} == {1}
    assert [is_new for _, is_new in made].count(True) == 1


async def test_two_processes_share_the_numbers(registry: Registry, bench: Bench) -> None:
    other = await bench.open()
    made = await asyncio.gather(*(add((registry, other)[seed % 2], bench, seed) for seed in range(6)))
    assert sorted(version.number for version in made) == list(range(1, 7))
    same = await asyncio.gather(add(registry, bench, 9), add(other, bench, 9))
    await other.close()
    assert same[0].number == same[1].number == 7


async def test_an_upload_is_replayed_by_its_key(registry: Registry, bench: Bench) -> None:
    upload = bench.upload(1)
    first, _ = await registry.add_version(TENANT, "a", upload, manifest(), Actor("key1"), "once")
    again, is_new = await registry.add_version(TENANT, "a", upload, manifest(), Actor("key1"), "once")
    assert (again, is_new) == (first, False)
    assert await registry.replay(TENANT, "once", upload.digest) == first
    assert await registry.replay(TENANT, "other", upload.digest) is None


async def test_uploads_at_once_under_one_key_are_one(registry: Registry, bench: Bench) -> None:
    upload = bench.upload(1)
    uploads = (registry.add_version(TENANT, "a", upload, manifest(), Actor("key1"), "once") for _ in range(4))
    assert {version.number for version, _ in await asyncio.gather(*uploads)} == {1}


async def test_a_key_used_for_other_content_is_a_conflict(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1, key="once")
    with pytest.raises(IdempotencyConflict, match="'once' was used for a@1"):
        await add(registry, bench, 2, key="once")
    with pytest.raises(IdempotencyConflict, match="use a new key"):
        await add(registry, bench, 1, name="b", key="once")
    with pytest.raises(IdempotencyConflict):
        await registry.replay(TENANT, "once", "0" * 64)
    assert await number_of(registry, "a") == made.number


async def test_keys_are_forgotten_after_a_day(registry: Registry, bench: Bench) -> None:
    upload = bench.upload(1)
    await registry.add_version(TENANT, "a", upload, manifest(), Actor("key1"), "once")
    bench.now += timedelta(hours=24)
    assert await registry.replay(TENANT, "once", upload.digest) is None
    assert (await add(registry, bench, 2, key="once")).number == 2


async def test_a_key_goes_with_its_version(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1, key="once")
    await registry.delete_version(TENANT, "a", 1)
    assert (await add(registry, bench, 1, key="once")).number == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_of_wrong_length_is_refused(registry: Registry, bench: Bench, key: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255"):
        await add(registry, bench, 1, key=key)


async def test_promotion_and_rollback_are_one_call(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2):
        await add(registry, bench, seed)
    first = await registry.put_alias(TENANT, "a", "production", 1, if_none_match="*")
    assert (first.version, first.previous_version) == (1, None)
    moved = await registry.put_alias(TENANT, "a", "production", 2, first.etag)
    assert (moved.version, moved.previous_version) == (2, 1)
    assert moved.etag != first.etag
    assert moved.previous_version is not None
    back = await registry.put_alias(TENANT, "a", "production", moved.previous_version, moved.etag)
    assert (back.version, back.previous_version) == (1, 2)
    assert await number_of(registry, "a") == 1
    assert await registry.get_alias(TENANT, "a", "production") == back


async def test_an_alias_moves_only_from_where_the_caller_saw_it(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2):
        await add(registry, bench, seed)
    first = await registry.put_alias(TENANT, "a", "production", 1)
    with pytest.raises(PreconditionRequired, match=first.etag):
        await registry.put_alias(TENANT, "a", "production", 2)
    with pytest.raises(PreconditionFailed, match="If-None-Match"):
        await registry.put_alias(TENANT, "a", "production", 2, if_none_match="*")
    await registry.put_alias(TENANT, "a", "production", 2, first.etag)
    with pytest.raises(PreconditionFailed, match="changed meanwhile"):
        await registry.put_alias(TENANT, "a", "production", 1, first.etag)
    assert await number_of(registry, "a") == 2
    forced = await registry.put_alias(TENANT, "a", "production", 1, "*")
    assert forced.version == 1
    listed = await registry.put_alias(TENANT, "a", "production", 2, f'"0", {forced.etag}')
    assert listed.version == 2


async def test_of_two_promotions_at_once_one_wins(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2, 3):
        await add(registry, bench, seed)
    etag = (await registry.put_alias(TENANT, "a", "production", 1)).etag
    moves = (registry.put_alias(TENANT, "a", "production", number, etag) for number in (2, 3))
    done = await asyncio.gather(*moves, return_exceptions=True)
    assert sorted(type(result).__name__ for result in done) == ["AliasInfo", "PreconditionFailed"]


async def test_an_alias_put_where_it_stands_keeps_its_past(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2):
        await add(registry, bench, seed)
    await registry.put_alias(TENANT, "a", "production", 1)
    moved = await registry.put_alias(TENANT, "a", "production", 2, "*")
    assert await registry.put_alias(TENANT, "a", "production", 2, "*") == moved


async def test_if_match_on_a_new_alias_fails(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    with pytest.raises(PreconditionFailed, match="does not exist yet"):
        await registry.put_alias(TENANT, "a", "production", 1, "*")


async def test_aliases_need_their_version(registry: Registry, bench: Bench) -> None:
    with pytest.raises(AdapterNotFound):
        await registry.put_alias(TENANT, "a", "production", 1)
    await add(registry, bench, 1)
    with pytest.raises(VersionNotFound):
        await registry.put_alias(TENANT, "a", "production", 2)


@pytest.mark.parametrize("alias", ["latest", "7", "Production"])
async def test_unmovable_aliases_are_refused(registry: Registry, bench: Bench, alias: str) -> None:
    await add(registry, bench, 1)
    with pytest.raises(InvalidName):
        await registry.put_alias(TENANT, "a", alias, 1)
    with pytest.raises(InvalidName):
        await registry.delete_alias(TENANT, "a", alias)


async def test_aliases_are_listed_and_deleted(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    made = await registry.put_alias(TENANT, "a", "staging", 1)
    listed = await registry.list_aliases(TENANT, "a")
    assert [(info.alias, info.version) for info in listed] == [("latest", 1), ("staging", 1)]
    assert await registry.get_alias(TENANT, "a", "latest") == listed[0]
    with pytest.raises(PreconditionFailed):
        await registry.delete_alias(TENANT, "a", "staging", '"0"')
    await registry.delete_alias(TENANT, "a", "staging", made.etag)
    with pytest.raises(AliasNotFound):
        await registry.get_alias(TENANT, "a", "staging")


async def test_a_version_under_an_alias_is_not_deleted(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    await registry.put_alias(TENANT, "a", "staging", 1)
    with pytest.raises(Conflict, match="staging"):
        await registry.delete_version(TENANT, "a", 1)
    assert await number_of(registry, "a") == 1


async def test_deleting_the_latest_moves_latest_back(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2, 3):
        await add(registry, bench, seed)
    await registry.delete_version(TENANT, "a", 3)
    assert await number_of(registry, "a@latest") == 2
    with pytest.raises(VersionNotFound):
        await registry.resolve(TENANT, "a@3")


async def test_numbers_are_never_given_out_again(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2):
        await add(registry, bench, seed)
    await registry.delete_version(TENANT, "a", 2)
    assert (await add(registry, bench, 2)).number == 3
    await registry.delete_adapter(TENANT, "a")
    with pytest.raises(AdapterNotFound):
        await registry.resolve(TENANT, "a")
    assert (await add(registry, bench, 2)).number == 4


async def test_a_rollback_target_that_is_deleted_is_forgotten(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2):
        await add(registry, bench, seed)
    await registry.put_alias(TENANT, "a", "production", 1)
    await registry.put_alias(TENANT, "a", "production", 2, "*")
    await registry.delete_version(TENANT, "a", 1)
    assert (await registry.get_alias(TENANT, "a", "production")).previous_version is None


async def test_deleting_an_adapter_takes_its_aliases(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1, key="once")
    await registry.put_alias(TENANT, "a", "production", 1)
    await registry.delete_adapter(TENANT, "a")
    with pytest.raises(AdapterNotFound):
        await registry.delete_adapter(TENANT, "a")
    await add(registry, bench, 2)
    assert [info.alias for info in await registry.list_aliases(TENANT, "a")] == ["latest"]


async def test_files_of_a_deleted_version_stay_for_a_grace_time(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1)
    bench.now += timedelta(hours=1)
    await registry.delete_version(TENANT, "a", 1)
    bench.now += timedelta(seconds=59)
    assert await registry.sweep_orphans() == []
    assert (await registry.open_bundle_files(made)).tensors_path.exists()
    bench.now += timedelta(seconds=2)
    assert sorted(await registry.sweep_orphans()) == sorted(blobs_of(made.bundle))
    with pytest.raises(BlobUnusable):
        await registry.open_bundle_files(made)


async def test_files_that_somebody_holds_stay(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1)
    await registry.delete_version(TENANT, "a", 1)
    bench.now += timedelta(hours=1)
    holds = Holds()
    with holds.hold([made.bundle]):
        with holds.hold([made.bundle]):
            await registry.keep_young(holds.blobs())
        await registry.keep_young(holds.blobs())
        bench.now += timedelta(seconds=59)
        assert await registry.sweep_orphans() == []
    assert holds.blobs() == set()
    await registry.keep_young(holds.blobs())
    bench.now += timedelta(seconds=2)
    assert sorted(await registry.sweep_orphans()) == sorted(blobs_of(made.bundle))


async def test_names_and_digests_that_are_or_were_in_use(registry: Registry, bench: Bench) -> None:
    assert not await registry.is_known_name(TENANT, "a")
    first, second = await add(registry, bench, 1), await add(registry, bench, 2)
    await add(registry, bench, 2, "b")
    digests = await registry.digests(TENANT, "a")
    assert digests == {first.digest, second.digest}
    removed = await registry.delete_adapter(TENANT, "a")
    assert await registry.is_known_name(TENANT, "a")
    assert (removed.digests, removed.was_kept) == ([first.digest], False)


async def test_a_digest_whose_files_others_share_is_gone_all_the_same(registry: Registry, bench: Bench) -> None:
    first, second = await add(registry, bench, 1), await add(registry, bench, 2)
    assert first.bundle.manifest_sha256 == second.bundle.manifest_sha256
    await registry.set_kept(TENANT, "a", 1, True)
    removed = await registry.delete_version(TENANT, "a", 1)
    assert removed == ([first.digest], True)


async def test_a_file_that_another_version_shares_stays(registry: Registry, bench: Bench) -> None:
    first, second = await add(registry, bench, 1), await add(registry, bench, 2)
    await registry.delete_version(TENANT, "a", 1)
    bench.now += timedelta(hours=1)
    assert await registry.sweep_orphans() == [first.bundle.tensors_sha256]
    await registry.open_bundle_files(second)


async def test_a_file_that_came_to_be_needed_again_stays(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    await registry.delete_adapter(TENANT, "a")
    made = await add(registry, bench, 1, "b")
    bench.now += timedelta(hours=1)
    assert await registry.sweep_orphans() == []
    await registry.open_bundle_files(made)
    await registry.delete_adapter(TENANT, "b")
    assert await registry.sweep_orphans() == []


async def test_a_file_swept_in_the_middle_of_an_upload_is_written_again(registry: Registry, bench: Bench) -> None:
    upload = bench.upload(1)
    await registry.stage(upload)
    bench.blobs.delete([upload.tensors_sha256])
    made, _ = await registry.add_version(TENANT, "a", upload, manifest(), Actor("key1"))
    assert (await registry.open_bundle_files(made)).tensors_path.read_bytes() == b"tensors 1"


async def test_adapters_are_listed_in_pages(registry: Registry, bench: Bench) -> None:
    for seed, name in enumerate(["c", "a", "b_x", "bax"]):
        await add(registry, bench, seed, name)
    await add(registry, bench, 9, "a")
    await registry.put_alias(TENANT, "a", "production", 1)
    page, cursor = await registry.list_adapters(TENANT, 2)
    assert [(item.name, item.version, item.num_versions) for item in page] == [("a", 1, 2), ("b_x", 1, 1)]
    assert page[0].aliases == {"latest": 2, "production": 1}
    assert (page[0].task, page[0].labels) == ("text-classification", ["no", "yes"])
    rest, end = await registry.list_adapters(TENANT, 2, cursor)
    assert ([item.name for item in rest], end) == (["bax", "c"], None)
    found, _ = await registry.list_adapters(TENANT, 10, search="B_")
    assert [item.name for item in found] == ["b_x"]
    await registry.delete_adapter(TENANT, "c")
    assert [item.name for item in (await registry.list_adapters(TENANT, 10))[0]] == ["a", "b_x", "bax"]


async def test_the_largest_page_is_full(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 0, "name-0000")

    async def fill(conn: Conn) -> None:
        for table, columns in ((tables.adapters, ("name",)), (tables.versions, ("name", "digest"))):
            row = dict((await conn.execute(select(table))).mappings().one())
            rows = [row | dict.fromkeys(columns, f"name-{number:04}") for number in range(1, 1001)]
            await conn.execute(insert(table), rows)

    await registry._database.append(fill)
    page, cursor = await registry.list_adapters(TENANT, 1000)
    assert ([item.name for item in page], cursor) == ([f"name-{number:04}" for number in range(1000)], "name-0999")
    assert all(item.aliases == {"latest": 1} for item in page)


async def test_one_adapter_is_shown_as_the_list_shows_it(registry: Registry, bench: Bench) -> None:
    with pytest.raises(AdapterNotFound):
        await registry.get_adapter(TENANT, "a")
    await add(registry, bench, 1)
    assert [await registry.get_adapter(TENANT, "a")] == (await registry.list_adapters(TENANT, 10))[0]


async def test_versions_are_listed_newest_first(registry: Registry, bench: Bench) -> None:
    for seed in (1, 2, 3):
        await add(registry, bench, seed)
    await registry.put_alias(TENANT, "a", "production", 2)
    page, cursor = await registry.list_versions(TENANT, "a", 2)
    assert [(item.version, item.aliases) for item in page] == [(3, ["latest"]), (2, ["production"])]
    rest, end = await registry.list_versions(TENANT, "a", 2, cursor)
    assert ([item.version for item in rest], end) == ([1], None)
    with pytest.raises(InvalidRequest, match="next_cursor"):
        await registry.list_versions(TENANT, "a", 2, "x")
    with pytest.raises(AdapterNotFound):
        await registry.list_versions(TENANT, "b", 2)


async def test_a_change_whose_caller_leaves_is_carried_out_and_known(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    await registry.resolve(TENANT, "a")
    leaving = asyncio.create_task(registry.delete_adapter(TENANT, "a"))
    await asyncio.sleep(0)  # it has begun
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await add(registry, bench, 2, "b")  # writers take turns
    with pytest.raises(AdapterNotFound):
        await registry.resolve(TENANT, "a")


async def test_a_new_version_is_described_though_it_is_deleted_at_once(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1)
    await registry.delete_adapter(TENANT, "a")
    info = await registry.describe(made, is_new=True)
    assert (info.version, info.digest, info.aliases, info.is_new) == (1, made.digest, ["latest"], True)


async def test_a_version_is_described_with_its_aliases(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1)
    info = await registry.describe(made, is_new=False)
    assert (info.version, info.aliases, info.is_new, info.created_by) == (1, ["latest"], False, "key1")


async def test_kept_versions_are_remembered(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    made = await registry.set_kept(TENANT, "a", 1, True)
    assert made.kept
    assert await registry.kept() == [made]
    await registry.set_kept(TENANT, "a", 1, False)
    assert await registry.kept() == []
    with pytest.raises(VersionNotFound):
        await registry.set_kept(TENANT, "a", 2, True)


async def test_what_was_resolved_is_answered_without_sql(
    registry: Registry, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(registry, bench, 1)
    first = await registry.resolve(TENANT, "a")
    monkeypatch.setattr(registry, "_database", None)
    assert await registry.resolve(TENANT, "a") is first


async def test_a_change_leaves_what_was_resolved_of_other_adapters(
    registry: Registry, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(registry, bench, 1)
    await add(registry, bench, 1, name="b")
    first = await registry.resolve(TENANT, "a@1")
    assert await number_of(registry, "b") == 1
    await add(registry, bench, 2, name="b")
    await registry.put_alias(TENANT, "b", "production", 1)
    await registry.delete_version(TENANT, "b", 2)
    await registry.refresh()
    assert await number_of(registry, "b@production") == 1
    monkeypatch.setattr(registry, "_database", None)
    assert await registry.resolve(TENANT, "a@1") is first


async def test_every_reference_to_a_changed_adapter_is_resolved_again(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    await registry.put_alias(TENANT, "a", "production", 1)
    assert [await number_of(registry, ref) for ref in ("a", "a@latest", "a@production")] == [1, 1, 1]
    await add(registry, bench, 2)
    assert [await number_of(registry, ref) for ref in ("a", "a@latest", "a@production")] == [1, 2, 1]
    await registry.delete_adapter(TENANT, "a")
    for ref in ("a", "a@latest", "a@1"):
        with pytest.raises(AdapterNotFound):
            await registry.resolve(TENANT, ref)


async def test_another_process_change_between_two_of_ones_own_is_seen_at_refresh(
    registry: Registry, bench: Bench
) -> None:
    await add(registry, bench, 1)
    assert await number_of(registry, "a") == 1
    other = await bench.open()
    await add(other, bench, 2)
    await other.close()
    await add(registry, bench, 3, name="b")
    await registry.refresh()
    assert await number_of(registry, "a") == 2


async def test_changes_of_another_process_are_seen_at_refresh(registry: Registry, bench: Bench) -> None:
    await add(registry, bench, 1)
    assert await number_of(registry, "a") == 1
    other = await bench.open()
    await add(other, bench, 2)
    await other.close()
    assert await number_of(registry, "a") == 1
    await registry.refresh()
    assert await number_of(registry, "a") == 2


async def test_every_write_moves_the_revision(registry: Registry, bench: Bench) -> None:
    before = await registry.revision()
    await add(registry, bench, 1)
    await registry.put_alias(TENANT, "a", "staging", 1)
    assert await registry.revision() == before + 2
    with pytest.raises(PreconditionRequired):
        await registry.put_alias(TENANT, "a", "staging", 1)
    assert await registry.revision() == before + 2


async def test_an_answer_read_before_a_change_is_not_remembered_after_it() -> None:
    from prefixrack_server.registry.snapshot import Snapshot

    snapshot: Snapshot[str, int] = Snapshot(max_entries=2)
    moment = snapshot.moment
    snapshot.clear()
    snapshot.put(moment, "a", 1)
    assert snapshot.last_known("a") is None
    for key in "abc":
        snapshot.put(snapshot.moment, key, 1)
    assert [snapshot.get(key) for key in "abc"] == [None, None, 1]


async def test_an_answer_read_before_a_doubt_is_in_doubt() -> None:
    from prefixrack_server.registry.snapshot import Snapshot

    snapshot: Snapshot[str, int] = Snapshot(max_entries=2)
    moment = snapshot.moment
    snapshot.doubt()
    snapshot.put(moment, "a", 1)
    assert (snapshot.get("a"), snapshot.last_known("a")) == (None, 1)
    snapshot.put(snapshot.moment, "a", 2)
    snapshot.put(moment, "a", 1)
    assert snapshot.get("a") == 2, "a slower reader knows less"


async def test_a_group_is_forgotten_alone_and_reads_under_way_with_it() -> None:
    from prefixrack_server.registry.snapshot import Snapshot

    snapshot: Snapshot[str, int] = Snapshot(max_entries=9, group_of=lambda key: key[0])
    for key in ("a1", "a2", "b1"):
        snapshot.put(snapshot.moment, key, 1)
    moment = snapshot.moment
    snapshot.forget("a")
    snapshot.put(moment, "a1", 2)
    assert [snapshot.get(key) for key in ("a1", "a2", "b1")] == [None, None, 1]
    snapshot.forget("nothing")
    assert snapshot.get("b1") == 1


async def test_changes_are_audited(registry: Registry, bench: Bench) -> None:
    made = await add(registry, bench, 1)
    await registry.put_alias(TENANT, "a", "production", 1, by=Actor("key2"))
    with pytest.raises(Conflict):
        await registry.delete_version(TENANT, "a", 1, by=Actor("key3"))
    await registry.delete_adapter(TENANT, "a", by=Actor("key3"))
    lines, cursor = await registry.list_audit(TENANT, 3)
    assert [(line.action, line.target, line.key_id) for line in lines] == [
        ("adapter.delete", "a", "key3"),
        ("alias.put", "a@production", "key2"),
        ("version.add", "a@1", "key1"),
    ]
    assert lines[0].detail == {"digests": [made.digest]}
    assert (lines[1].detail["before"], lines[1].detail["after"]["version"]) == (None, 1)
    assert [line.action for line in (await registry.list_audit(TENANT, 9, cursor))[0]] == ["tenant.create"]
    assert [line.action for line in (await registry.list_audit(TENANT, 9, action="version"))[0]] == ["version.add"]
