from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from prefixrack.errors import BundleTooLarge, DiskFull, MalformedBundle, UnsafeArchive
from prefixrack_adapters.bundle import digest_of
from prefixrack_server.upload import Draft, Spool, open_unbuffered

MANIFEST, TENSORS = b'{"name": "a"}', b"tensor bytes" * 1000


class FullDisk:
    """A file on a disk that takes `room` bytes and then says ENOSPC, in a write or in the final fsync."""

    def __init__(self, path: Path, room: int) -> None:
        self._file = open_unbuffered(path)
        self._room = room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num_written = self._file.write(data[: self._room])
        self._room -= num_written
        return num_written

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def spool(folder: Path, **settings: Any) -> Spool:
    return Spool(folder, **{"max_tensors_bytes": 100_000, **settings})


async def send(draft: Draft, **files: bytes) -> None:
    names = {"manifest": "adapter.json", "tensors": "adapter.safetensors", "card": "README.md"}
    for field, content in files.items():
        await draft.begin(names[field])
        for start in range(0, len(content), 1000):
            await draft.write(content[start : start + 1000])
        await draft.end()


def parts(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_a_draft_becomes_a_bundle_with_hashes_and_sizes(tmp_path: Path) -> None:
    async with spool(tmp_path).draft() as draft:
        await send(draft, manifest=MANIFEST, tensors=TENSORS, card="# Käse".encode())
        bundle = await draft.finish()
        assert bundle.tensors_path.read_bytes() == TENSORS
    assert bundle.manifest_bytes == MANIFEST
    assert bundle.manifest_sha256 == hashlib.sha256(MANIFEST).hexdigest()
    assert bundle.tensors_sha256 == hashlib.sha256(TENSORS).hexdigest()
    assert bundle.digest == digest_of(bundle.manifest_sha256, bundle.tensors_sha256)
    assert bundle.size_bytes == len(MANIFEST) + len(TENSORS)
    assert bundle.card == "# Käse"


async def test_the_files_are_gone_after_the_block(tmp_path: Path) -> None:
    async with spool(tmp_path).draft() as draft:
        await send(draft, manifest=MANIFEST, tensors=TENSORS)
        assert len(parts(tmp_path)) == 1
    assert parts(tmp_path) == []


async def test_the_files_are_gone_after_a_fault_in_the_middle(tmp_path: Path) -> None:
    async def lose_the_connection() -> None:
        async with spool(tmp_path).draft() as draft:
            await draft.begin("adapter.safetensors")
            await draft.write(b"half")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await lose_the_connection()
    assert parts(tmp_path) == []


async def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def open_full(path: Path) -> BinaryIO:
        return cast("BinaryIO", FullDisk(path, room=2500))

    with pytest.raises(DiskFull, match="no space"):
        async with spool(tmp_path, open_file=open_full).draft() as draft:
            await send(draft, tensors=TENSORS)
    assert parts(tmp_path) == []


async def test_a_disk_that_is_full_at_fsync_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        async with spool(tmp_path).draft() as draft:
            await send(draft, tensors=TENSORS)
    assert parts(tmp_path) == []


async def test_other_faults_of_the_disk_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        async with spool(tmp_path).draft() as draft:
            await send(draft, tensors=TENSORS)


@pytest.mark.parametrize(
    ("field", "limit"),
    [("manifest", "max_manifest_bytes"), ("tensors", "max_tensors_bytes"), ("card", "max_card_bytes")],
)
async def test_a_file_over_its_limit_names_seen_and_allowed(tmp_path: Path, field: str, limit: str) -> None:
    with pytest.raises(BundleTooLarge, match=r"has 2,000 bytes or more, 1,500 are allowed"):
        async with spool(tmp_path, **{limit: 1500}).draft() as draft:
            await send(draft, **{field: b"x" * 5000})
    assert parts(tmp_path) == []


async def test_a_claimed_size_over_the_limit_is_refused_before_a_byte(tmp_path: Path) -> None:
    async with spool(tmp_path).draft() as draft:
        with pytest.raises(BundleTooLarge, match="10,000,000,000"):
            await draft.begin("adapter.safetensors", 10_000_000_000)
        assert parts(tmp_path) == []


async def test_a_file_twice_is_refused(tmp_path: Path) -> None:
    async with spool(tmp_path).draft() as draft:
        await send(draft, manifest=MANIFEST)
        with pytest.raises(UnsafeArchive, match="twice"):
            await draft.begin("adapter.json")


async def test_an_unknown_file_is_refused(tmp_path: Path) -> None:
    async with spool(tmp_path).draft() as draft:
        with pytest.raises(MalformedBundle, match=r"'pytorch_model\.bin'"):
            await draft.begin("pytorch_model.bin")


@pytest.mark.parametrize(("present", "missing"), [("manifest", "adapter.safetensors"), ("tensors", "adapter.json")])
async def test_a_missing_file_is_named(tmp_path: Path, present: str, missing: str) -> None:
    async with spool(tmp_path).draft() as draft:
        await send(draft, **{present: MANIFEST})
        with pytest.raises(MalformedBundle, match=f"no {missing}"):
            await draft.finish()


@pytest.mark.parametrize("card", [b"\xff\xfe", b"a\0b"])
async def test_a_card_that_is_no_text_is_refused(tmp_path: Path, card: bytes) -> None:
    async with spool(tmp_path).draft() as draft:
        await send(draft, manifest=MANIFEST, tensors=TENSORS, card=card)
        with pytest.raises(MalformedBundle, match=r"README\.md"):
            await draft.finish()


def test_opening_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    left, other = tmp_path / "upload-abc.part", tmp_path / "notes.txt"
    for path in (left, other):
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    spool(tmp_path)
    assert parts(tmp_path) == [other]
