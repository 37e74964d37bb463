"""Blobs in an object store, over HTTP as S3, Google and Azure speak it: whole or refused, mended by fetching again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from azure_store import Container, azure_store, make_container
from blob_place import BlobPlace
from google_store import google_store, make_google_bucket
from object_store import Bucket, make_bucket, object_store
from prefixrack.errors import BlobUnusable, RegistryUnavailable
from prefixrack_server.config import ConfigError, RegistryConfig
from prefixrack_server.registry.blob_stores import open_blobs
from prefixrack_server.registry.blobs import LocalBlobStore
from prefixrack_server.registry.object_blobs import IN_USE_S, ObjectBlobStore

CONTENT = b"some tensors" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


KINDS: Mapping[str, tuple[Callable[[], AbstractContextManager[str]], Callable[[str], BlobPlace]]] = {
    "s3": (object_store, make_bucket),
    "google": (google_store, make_google_bucket),
    "azure": (azure_store, make_container),
}


@pytest.fixture(scope="module", params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], BlobPlace]]:
    """Makes an empty place on a running store of each kind."""
    running, make_place = KINDS[request.param]
    with running() as endpoint:
        yield partial(make_place, endpoint)


@pytest.fixture
def bucket(make: Callable[[], BlobPlace], monkeypatch: pytest.MonkeyPatch) -> BlobPlace:
    bucket = make()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


def blobs_of(bucket: BlobPlace, folder: Path, max_bytes: int = 1 << 30) -> ObjectBlobStore:
    return ObjectBlobStore.open(bucket.url, folder, max_bytes)


@pytest.fixture
def blobs(bucket: BlobPlace, tmp_path: Path) -> ObjectBlobStore:
    return blobs_of(bucket, tmp_path / "cache")


def test_one_replica_reads_what_another_wrote(bucket: BlobPlace, blobs: ObjectBlobStore, tmp_path: Path) -> None:
    tmp_path.joinpath("source").write_bytes(CONTENT)
    blobs.put_file(SHA256, tmp_path / "source")
    other = blobs_of(bucket, tmp_path / "other")
    assert other.exists(SHA256)
    assert other.local_path(SHA256, len(CONTENT)).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "other").iterdir()] == [SHA256[:2]]  # nothing half fetched


def test_the_copy_is_read_while_it_is_good(bucket: BlobPlace, blobs: ObjectBlobStore) -> None:
    blobs.put_bytes(SHA256, CONTENT)
    path = blobs.local_path(SHA256)
    bucket.put(SHA256, b"changed behind its back")
    assert blobs.local_path(SHA256).read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1])  # the disk lost a byte: the store is asked again, and it has other bytes
    with pytest.raises(BlobUnusable, match=f"{SHA256} has other bytes in the store"):
        blobs.local_path(SHA256)


@pytest.mark.parametrize("damaged", [CONTENT[:-1], b"", bytes(len(CONTENT))], ids=["truncated", "empty", "zeroed"])
def test_a_damaged_object_is_named_and_mended_by_an_upload(
    bucket: BlobPlace, blobs: ObjectBlobStore, damaged: bytes
) -> None:
    bucket.put(SHA256, damaged)
    with pytest.raises(BlobUnusable, match="upload its adapter again"):
        blobs.local_path(SHA256)
    blobs.put_bytes(SHA256, CONTENT)
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_a_damaged_copy_is_fetched_again(blobs: ObjectBlobStore) -> None:
    blobs.put_bytes(SHA256, CONTENT)
    blobs.local_path(SHA256).write_bytes(b"")
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_what_is_not_there_is_named(blobs: ObjectBlobStore) -> None:
    assert not blobs.exists(SHA256)
    assert not blobs.is_older(SHA256, datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(BlobUnusable, match="not in the store"):
        blobs.local_path(SHA256)
    blobs.delete([SHA256])
    blobs.keep_young(SHA256, datetime.now(UTC))


def test_a_deleted_blob_is_gone_from_store_and_folder(blobs: ObjectBlobStore) -> None:
    blobs.put_bytes(SHA256, CONTENT)
    path = blobs.local_path(SHA256)
    blobs.delete([SHA256])
    assert not blobs.exists(SHA256)
    assert not path.exists()


def test_blobs_are_listed_by_age_and_other_things_left_out(bucket: BlobPlace, blobs: ObjectBlobStore) -> None:
    blobs.put_bytes(SHA256, CONTENT)
    bucket.put("readme", b"no blob")
    soon, before = datetime.now(UTC) + timedelta(minutes=1), datetime.now(UTC) - timedelta(minutes=1)
    assert list(blobs.older_than(soon)) == [SHA256]
    assert list(blobs.older_than(before)) == []
    assert (blobs.is_older(SHA256, soon), blobs.is_older(SHA256, before)) == (True, False)


def test_the_folder_is_kept_below_its_limit_but_for_what_is_in_use(bucket: BlobPlace, tmp_path: Path) -> None:
    blobs = blobs_of(bucket, tmp_path, max_bytes=2 * len(CONTENT))
    contents = [bytes([number]) * len(CONTENT) for number in range(4)]
    names = [hashlib.sha256(content).hexdigest() for content in contents]
    for name, content in zip(names, contents, strict=True):
        blobs.put_bytes(name, content)
        blobs.local_path(name)
    assert len(list(tmp_path.glob("??/*"))) == 4  # all of them were used just now
    long_ago = time.time() - 2 * IN_USE_S
    for age, name in enumerate(names[:3]):
        path = tmp_path / name[:2] / name
        os.utime(path, (long_ago + age, long_ago + age))
    blobs.put_bytes(SHA256, CONTENT)
    blobs.local_path(SHA256)
    assert {path.name for path in tmp_path.glob("??/*")} == {names[3], SHA256}


@pytest.mark.parametrize("kind", [Bucket, Container])
def test_a_store_that_does_not_answer_is_an_outage(
    kind: Callable[[str], BlobPlace], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = kind("http://127.0.0.1:9")
    for name, value in nowhere.environment.items():
        monkeypatch.setenv(name, value)
    blobs = ObjectBlobStore.open(nowhere.url, tmp_path, 1)
    with pytest.raises(RegistryUnavailable, match="blob store does not answer") as caught:
        blobs.local_path(SHA256)
    assert caught.value.retry_after_s == 1


def test_settings_say_which_store(bucket: BlobPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_blobs(RegistryConfig(state_dir=tmp_path)), LocalBlobStore)
    shared = RegistryConfig.model_validate({"state_dir": tmp_path, "blobs_url": f"file://{tmp_path}/a%20b"})
    assert isinstance(open_blobs(shared), LocalBlobStore)
    assert (tmp_path / "a b").is_dir()
    in_bucket = RegistryConfig.model_validate({"state_dir": tmp_path, "blobs_url": bucket.url})
    assert isinstance(open_blobs(in_bucket), ObjectBlobStore)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    without_account = RegistryConfig.model_validate({"state_dir": tmp_path, "blobs_url": "az://container/adapters"})
    with pytest.raises(ConfigError, match=r"registry.blobs_url.*Account"):
        open_blobs(without_account)
