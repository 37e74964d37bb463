"""A version's files as an uncompressed tar, block by block: the same bytes as the library's `tar_bundle`. No HTTP."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, TENSORS_FILE
from prefixrack_server.registry.registry import BundleFiles

CHUNK_BYTES = 1 << 20


def tar_size(files: BundleFiles) -> int:
    sizes = [len(files.manifest_bytes), files.tensors_path.stat().st_size]
    if files.card is not None:
        sizes.append(len(files.card.encode()))
    return sum(tarfile.BLOCKSIZE + size + -size % tarfile.BLOCKSIZE for size in sizes) + 2 * tarfile.BLOCKSIZE


def tar_blocks(files: BundleFiles) -> Iterator[bytes]:
    yield from _entry(MANIFEST_FILE, len(files.manifest_bytes), [files.manifest_bytes])
    yield from _entry(TENSORS_FILE, files.tensors_path.stat().st_size, _blocks(files.tensors_path))
    if files.card is not None:
        card = files.card.encode()
        yield from _entry(CARD_FILE, len(card), [card])
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(name: str, num_bytes: int, blocks: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    yield info.tobuf(tarfile.USTAR_FORMAT)
    yield from blocks
    yield bytes(-num_bytes % tarfile.BLOCKSIZE)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            yield block
