from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from prefixrack.errors import BundleTooLarge, Fault, MalformedBundle, UnsafeArchive
from prefixrack_server.archive import ByteSource, read_multipart, read_tar
from prefixrack_server.upload import Spool, SpooledBundle

FILES = {"adapter.json": b'{"name": "a"}', "adapter.safetensors": b"\0\1\2" * 4000, "README.md": b"# card\n"}
FORM_TYPE = 'multipart/form-data; boundary="xyz"'


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], folder: str = "", tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    return tar(*(member(folder + name, content) for name, content in files.items()), tar_format=tar_format)


def form(fields: dict[str, bytes]) -> bytes:
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in fields.items()
    ]
    return b"".join(parts) + b"--xyz--\r\n"


async def chunks(content: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(folder: Path, content: bytes, size: int = 700) -> SpooledBundle:
    async with Spool(folder, 100_000).draft() as draft:
        bundle = await read_tar(chunks(content, size), draft)
        assert bundle.tensors_sha256 == hashlib.sha256(FILES["adapter.safetensors"]).hexdigest()
    return bundle


async def read_form(folder: Path, content: bytes, content_type: str = FORM_TYPE, size: int = 700) -> SpooledBundle:
    async with Spool(folder, 100_000).draft() as draft:
        return await read_multipart(chunks(content, size), content_type, draft)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


@pytest.mark.parametrize("size", [1, 512, 700, 1_000_000])
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_a_tar_is_read_in_any_chunks_and_format(tmp_path: Path, size: int, tar_format: int) -> None:
    bundle = await read(tmp_path, tar_of(FILES, tar_format=tar_format), size)
    assert (bundle.manifest_bytes, bundle.card) == (FILES["adapter.json"], "# card\n")


@pytest.mark.parametrize("folder", ["./", "intents/", "./intents/"])
async def test_one_leading_folder_is_allowed(tmp_path: Path, folder: str) -> None:
    entry = member(folder, type=tarfile.DIRTYPE)
    content = tar(entry, *(member(folder + name, data) for name, data in FILES.items()))
    assert (await read(tmp_path, content)).digest == (await read(tmp_path, tar_of(FILES))).digest


async def test_a_long_folder_name_in_extended_headers_is_applied(tmp_path: Path) -> None:
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        await read(tmp_path, tar_of(FILES, "é" * 200 + "/", tar_format))


async def test_pax_globals_hold_for_later_members(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "abc"}) as archive:
        for name, content in FILES.items():
            info, _ = member(name, content)
            archive.addfile(info, io.BytesIO(content))
    await read(tmp_path, buffer.getvalue())


async def test_the_card_may_be_missing(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if name != "README.md"}
    assert (await read(tmp_path, tar_of(files))).card is None


PLAIN = [member(name, content) for name, content in FILES.items()]
BAD_MEMBERS = {
    "parent folder": member("../adapter.json", b"{}"),
    "parent in the middle": member("a/../adapter.json", b"{}"),
    "absolute": member("/adapter.json", b"{}"),
    "backslash": member("..\\adapter.json", b"{}"),
    "symbolic link": member("adapter.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member("adapter.json", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": member("adapter.json", type=tarfile.CHRTYPE),
    "pipe": member("adapter.json", type=tarfile.FIFOTYPE),
    "old sparse file": member("adapter.json", type=tarfile.GNUTYPE_SPARSE),
    "unknown type": member("adapter.json", type=b"Q"),
    "two folders": member("a/b/adapter.json", b"{}"),
    "deep folder": member("a/b/", type=tarfile.DIRTYPE),
    "folder with content": member("a/", b"x", type=tarfile.DIRTYPE),
}


@pytest.mark.parametrize("bad", BAD_MEMBERS.values(), ids=BAD_MEMBERS.keys())
async def test_unsafe_members_are_refused(tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(UnsafeArchive):
        await read(tmp_path, tar(bad, *PLAIN))
    assert is_empty(tmp_path)


async def test_files_in_different_folders_are_refused(tmp_path: Path) -> None:
    files = {"a/adapter.json": b"{}", "b/adapter.safetensors": b""}
    with pytest.raises(UnsafeArchive, match="side by side"):
        await read(tmp_path, tar_of(files))


async def test_a_file_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="twice"):
        await read(tmp_path, tar(PLAIN[0], *PLAIN))


async def test_endless_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="folder"):
        await read(tmp_path, tar(*[member("a/", type=tarfile.DIRTYPE)] * 9))


@pytest.mark.parametrize("size", [1, 700, 1_000_000])
@pytest.mark.parametrize("folder", ["", "./", "intents/"])
async def test_plain_files_beside_the_bundle_are_skipped(tmp_path: Path, size: int, folder: str) -> None:
    files = {".DS_Store": b"", **FILES, "metrics.json": b"{}" * 900, "._adapter.json": b"x" * 512}
    bundle = await read(tmp_path, tar_of(files, folder), size)
    plain = await read(tmp_path, tar_of(FILES))
    assert (bundle.digest, bundle.card, bundle.size_bytes) == (plain.digest, plain.card, plain.size_bytes)


async def test_a_huge_file_beside_the_bundle_is_refused_at_once(tmp_path: Path) -> None:
    content = header_of(member("checkpoint.bin", size=10**10)[0], tarfile.GNU_FORMAT)
    async with Spool(tmp_path, 100_000).draft() as draft:
        with pytest.raises(BundleTooLarge, match=r"'checkpoint.bin' of 10,000,000,000 bytes.*leave it out"):
            await read_tar(only_headers(content), draft)


async def test_files_beside_the_bundle_count_towards_the_limit(tmp_path: Path) -> None:
    content = tar(*[member(f"part{index}.bin", b"x" * 1_000_000) for index in range(6)], *PLAIN)
    with pytest.raises(BundleTooLarge, match="in all"):
        await read(tmp_path, content, 100_000)
    assert is_empty(tmp_path)


@pytest.mark.parametrize("bad", ["link", "folder"])
async def test_what_lies_beside_the_bundle_must_be_plain(tmp_path: Path, bad: str) -> None:
    link = member("metrics.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(UnsafeArchive):
        await read(tmp_path, tar(*PLAIN, link if bad == "link" else member("runs/metrics.json", b"{}")))


@pytest.mark.parametrize("missing", ["adapter.json", "adapter.safetensors"])
async def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    files = {name: content for name, content in FILES.items() if name != missing}
    async with Spool(tmp_path, 100_000).draft() as draft:
        with pytest.raises(MalformedBundle, match=f"no {missing}"):
            await read_tar(chunks(tar_of(files)), draft)


def header_of(info: tarfile.TarInfo, tar_format: Literal[0, 1, 2] = tarfile.USTAR_FORMAT) -> bytes:
    return info.tobuf(tar_format, "utf-8", "surrogateescape")


def pax_header(records: dict[str, str]) -> bytes:
    info = tarfile.TarInfo("adapter.safetensors")
    info.pax_headers = records
    return info.tobuf(tarfile.PAX_FORMAT)


async def only_headers(content: bytes) -> AsyncIterator[bytes]:
    yield content
    raise AssertionError("the claim was believed: more bytes were asked for")


@pytest.mark.parametrize(
    "content",
    [
        header_of(member("adapter.safetensors", size=10**10)[0], tarfile.GNU_FORMAT),
        pax_header({"size": str(10**10)}),
    ],
    ids=["base-256", "pax"],
)
async def test_a_claimed_size_of_ten_gigabytes_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    async with Spool(tmp_path, 100_000).draft() as draft:
        with pytest.raises(BundleTooLarge, match=r"10,000,000,000 bytes or more, 100,000 are allowed"):
            await read_tar(only_headers(content), draft)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
async def test_a_huge_extended_header_is_refused_at_once(tmp_path: Path, kind: bytes) -> None:
    content = header_of(member("x", type=kind, size=10**9)[0])
    async with Spool(tmp_path, 100_000).draft() as draft:
        with pytest.raises(UnsafeArchive, match="extended tar header"):
            await read_tar(only_headers(content), draft)


async def test_endless_small_extended_headers_are_refused(tmp_path: Path) -> None:
    content = header_of(member("x", type=tarfile.XHDTYPE)[0]) * 200
    async with Spool(tmp_path, 100_000).draft() as draft:
        with pytest.raises(UnsafeArchive, match="extended tar header"):
            await read_tar(chunks(content), draft)


@pytest.mark.parametrize(
    "records",
    [
        {"size": "-512"},
        {"size": "many"},
        {"path": "../adapter.safetensors"},
        {"path": "/adapter.safetensors"},
        {"GNU.sparse.size": "10000000000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10000000000"},
    ],
    ids=["negative size", "no number", "parent path", "absolute path", "sparse 0.1", "sparse 1.0"],
)
async def test_pax_tricks_are_refused(tmp_path: Path, records: dict[str, str]) -> None:
    content = pax_header(records) + tar_of(FILES)
    with pytest.raises((UnsafeArchive, MalformedBundle)):
        await read(tmp_path, content)
    assert is_empty(tmp_path)


async def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    info, _ = member("adapter.json", size=-512)
    with pytest.raises(UnsafeArchive, match="-512"):
        await read(tmp_path, header_of(info, tarfile.GNU_FORMAT) + tar_of(FILES))


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name"), [(gzip.compress(tar_of(FILES), mtime=0, compresslevel=0), "gzip"), (zipped(), "zip")]
)
async def test_other_formats_are_named(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(MalformedBundle, match=f"looks like {name}: send an uncompressed tar"):
        await read(tmp_path, content)


async def test_text_is_no_tar(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="not a tar archive"):
        await read(tmp_path, b"hello" * 1000)


@pytest.mark.parametrize("num_bytes", [0, 100, 512, 700, 5000, 14_000])
async def test_an_early_end_is_named(tmp_path: Path, num_bytes: int) -> None:
    with pytest.raises(MalformedBundle, match=f"ends early, after {num_bytes:,} bytes"):
        await read(tmp_path, tar_of(FILES)[:num_bytes])
    assert is_empty(tmp_path)


async def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="bytes follow the end"):
        await read(tmp_path, tar_of(FILES) + b"garbage")


async def test_endless_zeros_after_the_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="zero bytes"):
        await read(tmp_path, tar_of(FILES) + bytes(2_000_000), 100_000)


@pytest.mark.parametrize("cut", range(0, 3000, 97))
async def test_damaged_archives_get_a_named_fault(tmp_path: Path, cut: int) -> None:
    content = bytearray(tar_of(FILES, tar_format=tarfile.PAX_FORMAT))
    content[cut] ^= 0x55
    with suppress(Fault, AssertionError):  # AssertionError: the flipped byte was one of the tensors'
        await read(tmp_path, bytes(content))
    assert is_empty(tmp_path)


@pytest.mark.parametrize("size", [1, 700, 1_000_000])
@pytest.mark.parametrize("names", [("manifest", "tensors", "card"), tuple(FILES)])
async def test_multipart_and_tar_agree(tmp_path: Path, size: int, names: tuple[str, ...]) -> None:
    content = form(dict(zip(names, FILES.values(), strict=True)))
    by_form = await read_form(tmp_path, content, size=size)
    by_tar = await read(tmp_path, tar_of(FILES))
    assert (by_form.digest, by_form.card, by_form.size_bytes) == (by_tar.digest, by_tar.card, by_tar.size_bytes)


async def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="field 'weights': manifest, tensors and card"):
        await read_form(tmp_path, form({"weights": b""}))


async def test_a_field_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="twice"):
        await read_form(tmp_path, form({"manifest": b"{}", "adapter.json": b"{}"}))


async def test_a_form_over_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleTooLarge, match="100,000 are allowed"):
        await read_form(tmp_path, form({"tensors": b"x" * 200_000}))
    assert is_empty(tmp_path)


async def test_an_endless_epilogue_is_refused(tmp_path: Path) -> None:
    content = form({"manifest": b"{}", "tensors": b""}) + b"x" * 5_000_000
    with pytest.raises(BundleTooLarge, match="in all"):
        await read_form(tmp_path, content, size=1_000_000)


@pytest.mark.parametrize("num_bytes", [0, 5, 60, 200, -10])
async def test_a_form_that_ends_early_is_refused(tmp_path: Path, num_bytes: int) -> None:
    content = form({"manifest": FILES["adapter.json"], "tensors": FILES["adapter.safetensors"]})
    with pytest.raises(MalformedBundle, match="closing boundary"):
        await read_form(tmp_path, content[:num_bytes])
    assert is_empty(tmp_path)


async def test_what_is_no_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="cannot be read"):
        await read_form(tmp_path, b"hello, this is no form")


@pytest.mark.parametrize("content_type", ["", "multipart/form-data", "text/plain; boundary=xyz"])
async def test_a_content_type_without_boundary_is_refused(tmp_path: Path, content_type: str) -> None:
    with pytest.raises(MalformedBundle, match="boundary is needed"):
        await read_form(tmp_path, form({"manifest": b"{}"}), content_type)


async def test_empty_chunks_are_no_end() -> None:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in (b"", b"ab", b"", b"c"):
            yield chunk

    assert await ByteSource(stream(), 10).read_exactly(3) == b"abc"
