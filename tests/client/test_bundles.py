"""Bundles over HTTP: what push sends, what pull accepts, and every archive that pull must refuse."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prefixrack.bundles import Spool, bundle_digest, name_in_manifest, unpack
from prefixrack.errors import BundleTooLarge, MalformedBundle, UnsafeArchive


def tar_of(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def tar_of_folder(folder: Path) -> bytes:
    return tar_of({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def header_of(name: str, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def parts_of(request: httpx2.Request) -> dict[str, tuple[str | None, bytes]]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + request.content)
    return {
        str(part.get_param("name", header="content-disposition")): (
            part.get_filename(),
            bytes(part.get_payload(decode=True) or b""),
        )
        for part in message.walk()
        if not part.is_multipart()
    }


def test_push_sends_the_files_as_fields(script: Any, wire: Any, bundle: Path) -> None:
    script.queue(httpx2.Response(201, json=wire.version(7)))
    seen: list[tuple[int, int]] = []
    version = script.client().push("intent", bundle, progress=lambda sent, total: seen.append((sent, total)))
    (request,) = script.requests
    assert version.version == 7
    assert request.url.path == "/admin/v1/adapters/intent/versions"
    assert len(request.headers["idempotency-key"]) == 32
    assert int(request.headers["content-length"]) == len(request.content) == seen[-1][0] == seen[-1][1]
    assert "transfer-encoding" not in request.headers
    assert [sent for sent, _ in seen] == sorted(sent for sent, _ in seen)
    names = {"manifest": "adapter.json", "tensors": "adapter.safetensors", "card": "README.md"}
    assert {field: name for field, (name, _) in parts_of(request).items()} == names
    assert (bundle / "adapter.safetensors").read_bytes() in request.content


def test_a_key_of_the_callers_own(script: Any, wire: Any, bundle: Path) -> None:
    script.queue(httpx2.Response(200, json=wire.version(is_new=False)))
    assert not script.client().push("intent", str(bundle), idempotency_key="mine").is_new
    assert script.requests[0].headers["idempotency-key"] == "mine"


async def test_async_push_sends_the_same(script: Any, wire: Any, bundle: Path) -> None:
    script.queue(wire.problem(503, "x"), httpx2.Response(201, json=wire.version()))
    seen: list[int] = []
    async with script.async_client() as client:
        await client.push("intent", bundle, progress=lambda sent, total: seen.append(sent - total))
    first, second = script.requests
    assert first.content == second.content
    assert set(parts_of(first)) == {"manifest", "tensors", "card"}
    assert seen.count(0) == 2


def test_a_folder_that_is_no_bundle_is_not_sent(script: Any, bundle: Path) -> None:
    (bundle / "adapter.safetensors").unlink()
    with pytest.raises(MalformedBundle, match=r"has no adapter\.safetensors"):
        script.client().push("intent", bundle)
    assert script.requests == []


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"name": 3}'])
def test_a_manifest_without_a_name(bundle: Path, content: str) -> None:
    (bundle / "adapter.json").write_text(content)
    with pytest.raises(MalformedBundle):
        name_in_manifest(bundle)


def test_pull_gives_back_what_was_pushed(
    script: Any, wire: Any, bundle: Path, tmp_path: Path, digest_of: Callable[[Path], str]
) -> None:
    target = tmp_path / "new" / "folder"
    script.queue(wire.detail(digest_of(bundle)), httpx2.Response(200, content=tar_of_folder(bundle)))
    assert script.client().pull("intent@stable", target).version == 3
    assert script.requests[0].url.path == "/v1/adapters/intent@stable"
    assert script.requests[1].url.path == "/admin/v1/adapters/intent/versions/3/bundle"
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }


async def test_async_pull(script: Any, wire: Any, bundle: Path, tmp_path: Path) -> None:
    archive = tar_of_folder(bundle)
    script.queue(wire.detail(bundle_digest(bundle)), wire.problem(503, "x"), httpx2.Response(200, content=archive))
    async with script.async_client() as client:
        await client.pull("intent", tmp_path / "new")
    assert bundle_digest(tmp_path / "new") == bundle_digest(bundle)


def test_pull_starts_over_when_the_line_breaks(script: Any, wire: Any, bundle: Path, tmp_path: Path) -> None:
    archive = tar_of_folder(bundle)

    class Broken(httpx2.SyncByteStream):
        def __iter__(self) -> Any:
            yield archive[:1000]
            raise httpx2.ReadError("gone", request=httpx2.Request("GET", "http://rack"))

    script.queue(wire.detail(bundle_digest(bundle)))
    script.queue(httpx2.Response(200, stream=Broken()), httpx2.Response(200, content=archive))
    script.client().pull("intent", tmp_path / "new")
    assert bundle_digest(tmp_path / "new") == bundle_digest(bundle)


def test_pull_replaces_only_when_told_to(script: Any, wire: Any, bundle: Path, tmp_path: Path) -> None:
    files = {"adapter.json": b"{}", "adapter.safetensors": b"other"}
    with pytest.raises(FileExistsError, match=r"already has adapter\.json"):
        script.client().pull("intent", bundle)
    reference = tmp_path / "reference"
    reference.mkdir()
    for name, content in files.items():
        (reference / name).write_bytes(content)
    script.queue(wire.detail(bundle_digest(reference)), httpx2.Response(200, content=tar_of(files)))
    script.client().pull("intent", bundle, overwrite=True)
    assert {path.name for path in bundle.iterdir()} == set(files)


GOOD = {"adapter.json": b"{}", "adapter.safetensors": b"tensors"}
START = tar_of(GOOD)[:2048]  # two files of one block each, without the end of the archive

UNSAFE = {
    "upwards": tar_of({"../adapter.json": b"{}"}),
    "absolute": tar_of({"/etc/passwd": b"x"}),
    "subfolder": tar_of({"x/adapter.json": b"{}"}),
    "unknown file": tar_of(GOOD | {"training_args.bin": b"pickle"}),
    "twice": START + START,
    "symlink": header_of("README.md", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": header_of("README.md", type=tarfile.LNKTYPE, linkname="adapter.json"),
    "folder": header_of("README.md", type=tarfile.DIRTYPE),
    "device": header_of("README.md", type=tarfile.CHRTYPE),
    "fifo": header_of("README.md", type=tarfile.FIFOTYPE),
}


def unpack_bytes(archive: bytes, folder: Path, digest: str = "any", **options: Any) -> None:
    unpack(io.BytesIO(archive), folder, digest, **options)


@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_archives_leave_nothing_behind(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    with pytest.raises(UnsafeArchive):
        unpack_bytes(UNSAFE[kind], target)
    assert list(tmp_path.rglob("*")) == [target]


@pytest.mark.parametrize("size", [10 * 2**30, 2**40, -512])
def test_a_claimed_size_is_not_believed(tmp_path: Path, size: int) -> None:
    with pytest.raises(BundleTooLarge, match="claims"):
        unpack_bytes(header_of("adapter.json", size=size), tmp_path)


def test_the_sum_of_the_files_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(BundleTooLarge, match="left of what is allowed"):
        unpack_bytes(tar_of(GOOD), tmp_path, max_bytes=8)


@pytest.mark.parametrize("archive", [b"", b"PK\x03\x04 a zip", START[:700], tar_of({"adapter.json": b"{}"})])
def test_broken_archives(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(MalformedBundle):
        unpack_bytes(archive, tmp_path)


def test_other_bytes_than_the_digest_says(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="the server named"):
        unpack_bytes(tar_of(GOOD), tmp_path, "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_end_is_cut() -> None:
    with Spool(max_bytes=10) as spool:
        spool.write(b"12345678")
        spool.restart()
        spool.write(b"12345678")
        with pytest.raises(BundleTooLarge):
            spool.write(b"123")
