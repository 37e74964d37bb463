"""What a source's URI means, whether it is allowed, and its bundle on this machine. Knows no HTTP route, no registry.

Nothing is allowed until an operator says so: `sources.allowed` lists the beginnings of URIs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from prefixrack.errors import BundleTooLarge, MalformedBundle, SourceRefused, SourceUnavailable
from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, TENSORS_FILE
from prefixrack_server.config import SourcesConfig
from prefixrack_server.registry.object_blobs import RETRIES
from prefixrack_server.sources.guard import Guard
from prefixrack_server.sources.hub import Hub, HubPath

PEFT_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
OBJECT_STORES: Final = ("s3://", "gs://", "az://", "abfs://", "abfss://")
IMPORT_TIMEOUT_S: Final = 300.0
IMPORT: Final = """
import json, sys
from pathlib import Path
from prefixrack_adapters.importers.run import run_import
from prefixrack.errors import Fault
try:
    run_import("peft", Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), **json.loads(sys.argv[4]))
except Fault as fault:
    sys.exit(fault.detail)
"""

Take = Callable[[str, Path, int], bool]


class Sources:
    """Lives as long as the process. `backbone` is what a foreign adapter is converted for."""

    def __init__(self, config: SourcesConfig, folder: Path, max_bytes: int, backbone: Path | str) -> None:
        self._config = config
        self._folder = folder
        self._max_bytes = max_bytes
        self._backbone = str(backbone)
        self._hub = Hub(Guard(config.private_hosts), config.hub_endpoint)

    def check(self, uri: str) -> None:
        """Raises SourceRefused for what no operator has allowed."""
        if any(character in uri for character in "\\\0?#") or "/../" in f"{uri}/":
            raise SourceRefused(f"{uri[:200]!a} is no source: '..', '?', '#' and backslashes are not allowed")
        if not any(uri == allowed or uri.startswith(_as_prefix(allowed)) for allowed in self._config.allowed):
            allowed = ", ".join(self._config.allowed) or "none"
            raise SourceRefused(f"the source {uri[:200]!a} is not allowed; the setting sources.allowed has: {allowed}")

    async def fetch(
        self, uri: str, folder: Path, *, is_trusted: bool = False, task: str | None = None, labels: Sequence[str] = ()
    ) -> Path:
        """The folder of a source's bundle, in `folder` or, for file://, where it lies; a PEFT adapter is converted.

        `is_trusted`: an operator named it. `task` and `labels` are what a PEFT adapter does not say itself. Raises
        SourceRefused, SourceUnavailable, BundleTooLarge or another BundleFault.
        """
        if not is_trusted:
            self.check(uri)
        if uri.startswith("file://"):
            return self._local(uri, is_trusted)
        take = self._taker(uri)
        if await asyncio.to_thread(take, MANIFEST_FILE, folder / MANIFEST_FILE, self._max_bytes):
            for name in (TENSORS_FILE, CARD_FILE):
                await asyncio.to_thread(take, name, folder / name, self._max_bytes)
            return folder
        return await self._convert(uri, take, folder, {"task": task, "labels": list(labels) or None})

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._folder, prefix="source-")

    def _local(self, uri: str, is_trusted: bool) -> Path:
        """Where it really is must be allowed too: a link may lead out."""
        path = Path(uri.removeprefix("file://"))
        real = f"file://{path.resolve()}"
        if not is_trusted and real != uri.rstrip("/"):
            self.check(real)
        if not path.is_dir():
            raise SourceUnavailable(f"there is no folder {uri[:200]!a} on the server", retry_after_s=5)
        return path

    def _taker(self, uri: str) -> Take:
        if uri.startswith("hf://"):
            path = HubPath.parse(uri)
            return lambda name, target, max_bytes: self._hub.fetch(path, name, target, max_bytes)
        if uri.startswith(OBJECT_STORES):
            store: ObjectStore = from_url(uri, retry_config=RETRIES)  # type: ignore[call-overload]
            return lambda name, target, max_bytes: take_object(store, name, target, max_bytes)
        raise SourceRefused(f"{uri[:200]!a} has no scheme that is known: file, hf, s3, gs, az are")

    async def _convert(self, uri: str, take: Take, folder: Path, options: Mapping[str, Any]) -> Path:
        """In a process of its own: converting loads what a front end must not."""
        source, bundle = folder / "peft", folder / "bundle"
        source.mkdir()
        for name in PEFT_FILES:
            if not await asyncio.to_thread(take, name, source / name, self._max_bytes):
                raise MalformedBundle(
                    f"{uri[:200]!a} holds neither {MANIFEST_FILE} nor a PEFT adapter ({', '.join(PEFT_FILES)})"
                )
        arguments = (str(source), self._backbone, str(bundle), json.dumps(options))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", IMPORT, *arguments, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(IMPORT_TIMEOUT_S):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            reason = said.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise MalformedBundle(f"the PEFT adapter {uri[:200]!a} cannot be converted: {reason[0][:500]}")
        return bundle


def take_object(store: ObjectStore, name: str, target: Path, max_bytes: int) -> bool:
    """Write an object to a file; False where there is none."""
    try:
        found = obstore.get(store, name)
        if found.meta["size"] > max_bytes:
            raise BundleTooLarge(f"{name} has {found.meta['size']:,} bytes, allowed are {max_bytes:,}")
        with target.open("wb") as file:
            for chunk in found.stream():
                file.write(chunk)
        return True
    except (NotFoundError, FileNotFoundError):
        return False
    except BaseError as error:
        reason = str(error).splitlines()[0][:200]
        raise SourceUnavailable(
            f"the object store does not give {name} ({reason}): try again later", retry_after_s=5
        ) from error


def _as_prefix(allowed: str) -> str:
    """`hf://owner` allows `hf://owner/name`, and not `hf://owner-two/name`."""
    return allowed if allowed.endswith("/") else f"{allowed}/"
