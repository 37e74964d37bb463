from __future__ import annotations

import errno
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError

from prefixrack.errors import BlobUnusable, DiskFull
from prefixrack_server.messages import BundleRef
from prefixrack_server.registry import blobs as blobs_module
from prefixrack_server.registry.blobs import BundleSource, LocalBlobStore

CONTENT = b"some tensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FULL = "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"


def source_file(folder: Path) -> Path:
    path = folder / "source"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_stored_under_its_sha256(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    blobs.put_file(SHA256, source_file(tmp_path))
    assert blobs.exists(SHA256)
    assert blobs.local_path(SHA256, len(CONTENT)) == tmp_path / "blobs" / SHA256[:2] / SHA256
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_the_same_blob_again_changes_nothing(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    blobs.put_bytes(SHA256, CONTENT)
    before = blobs.local_path(SHA256).stat()
    blobs.put_bytes(SHA256, CONTENT)
    assert blobs.local_path(SHA256).stat().st_ino == before.st_ino


def test_a_blob_that_lost_its_bytes_is_written_again(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    blobs.put_bytes(SHA256, CONTENT)
    blobs.local_path(SHA256).write_bytes(bytes(len(CONTENT)))
    blobs.put_bytes(SHA256, CONTENT)
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_file_and_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real_fsync = os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real_fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    LocalBlobStore(tmp_path).put_bytes(SHA256, CONTENT)
    path = tmp_path.resolve() / SHA256[:2] / SHA256
    assert synced == [str(path), str(path.parent), str(path.parent.parent)]


def test_the_folder_of_all_is_synced_once_for_each_folder_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(blobs_module, "sync_folder", lambda path: synced.append(path.name))
    blobs = LocalBlobStore(tmp_path / "blobs")
    blobs.put_bytes(SHA256, CONTENT)
    blobs.delete([SHA256])
    blobs.put_bytes(SHA256, CONTENT)
    LocalBlobStore(tmp_path / "blobs").put_bytes(SHA256, CONTENT)
    assert synced == [SHA256[:2], "blobs", SHA256[:2], SHA256[:2], "blobs"]


def test_an_adopted_file_is_the_blob(tmp_path: Path) -> None:
    blobs, source = LocalBlobStore(tmp_path / "blobs"), source_file(tmp_path)
    blobs.adopt_file(SHA256, source)
    assert blobs.local_path(SHA256).samefile(source)
    source.unlink()
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_an_adopted_file_mends_a_blob_that_lost_its_bytes(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    blobs.put_bytes(SHA256, CONTENT)
    blobs.local_path(SHA256).write_bytes(bytes(len(CONTENT)))
    blobs.adopt_file(SHA256, source_file(tmp_path))
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_where_links_cannot_be_made_an_adopted_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*_paths: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", other_disk)
    blobs, source = LocalBlobStore(tmp_path / "blobs"), source_file(tmp_path)
    blobs.adopt_file(SHA256, source)
    assert not blobs.local_path(SHA256).samefile(source)
    assert blobs.local_path(SHA256).read_bytes() == CONTENT


def test_a_disk_that_has_no_room_for_a_name_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_paths: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(DiskFull, match="the adapter's files"):
        LocalBlobStore(tmp_path / "blobs").adopt_file(SHA256, source_file(tmp_path))


def test_an_absent_blob_is_named(tmp_path: Path) -> None:
    with pytest.raises(BlobUnusable, match=SHA256):
        LocalBlobStore(tmp_path).local_path(SHA256)


def test_a_blob_of_another_size_is_named(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    blobs.put_bytes(SHA256, CONTENT)
    with pytest.raises(BlobUnusable, match="12 bytes instead of 13"):
        blobs.local_path(SHA256, 13)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_args: Any, **_settings: Any) -> None:
        raise GenericError(FULL)

    monkeypatch.setattr(obstore, "put", put)
    blobs = LocalBlobStore(tmp_path)
    with pytest.raises(DiskFull, match="the adapter's files"):
        blobs.put_bytes(SHA256, CONTENT)
    assert not blobs.exists(SHA256)


def test_other_faults_of_the_store_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_args: Any, **_settings: Any) -> None:
        raise GenericError("Generic LocalFileSystem error: Input/output error (os error 5)")

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(GenericError, match="os error 5"):
        LocalBlobStore(tmp_path).put_bytes(SHA256, CONTENT)


def test_delete_is_repeatable(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    blobs.put_bytes(SHA256, CONTENT)
    blobs.delete([SHA256])
    blobs.delete([SHA256])
    assert not blobs.exists(SHA256)


def test_older_than_lists_by_age(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    blobs.put_bytes(SHA256, CONTENT)
    now = datetime.now(UTC)
    assert list(blobs.older_than(now + timedelta(minutes=1))) == [SHA256]
    assert list(blobs.older_than(now - timedelta(minutes=1))) == []


def test_an_old_blob_put_again_is_young_again(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    blobs.put_bytes(SHA256, CONTENT)
    os.utime(blobs.local_path(SHA256), (1, 1))
    blobs.put_bytes(SHA256, CONTENT)
    assert list(blobs.older_than(datetime(2000, 1, 1, tzinfo=UTC))) == []


def test_opening_removes_half_written_blobs_of_a_killed_process(tmp_path: Path) -> None:
    left = tmp_path / SHA256[:2] / f"{SHA256}#1"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    blobs = LocalBlobStore(tmp_path)
    assert not left.exists()
    assert not blobs.exists(SHA256)


def test_the_source_finds_both_files_of_a_version(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    manifest_sha256 = hashlib.sha256(b"{}").hexdigest()
    blobs.put_bytes(SHA256, CONTENT)
    blobs.put_bytes(manifest_sha256, b"{}")
    manifest, tensors_path = BundleSource(blobs).fetch(BundleRef("d", manifest_sha256, SHA256))
    assert (manifest, tensors_path.read_bytes()) == (b"{}", CONTENT)
