"""A Blob store of one's own that speaks Azure's protocol over HTTP, in a process: Microsoft's Azurite, a program for
Node.js. Knows no registry."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Final

import httpx2
from obstore.store import AzureStore

from blob_place import BlobPlace
from real_parts import program
from serve_process import wait_for

# Of every Azurite: they are in its documentation, and open nothing else.
ACCOUNT: Final = "devstoreaccount1"
KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PROTOCOL: Final = "2021-12-02"
LISTENS: Final = re.compile(r"successfully listens on (http://\S+)")


@dataclass(frozen=True)
class Container(BlobPlace):
    """An empty container."""

    endpoint: str
    name: str = field(default_factory=lambda: f"container-{uuid.uuid4().hex}")

    @property
    def url(self) -> str:
        return f"az://{self.name}/adapters"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/{ACCOUNT}",
            "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }

    @property
    def store(self) -> AzureStore:
        return AzureStore(
            self.name,
            prefix="adapters",
            account_name=ACCOUNT,
            account_key=KEY,
            endpoint=f"{self.endpoint}/{ACCOUNT}",
            client_options={"allow_http": True},
        )


@contextmanager
def azure_store() -> Iterator[str]:
    """The endpoint of a running store."""
    started = [program("node"), program("azurite-blob")]
    command = [*started, "--inMemoryPersistence", "--disableTelemetry", "--blobPort", "0"]
    # Object stores' clients may be newer than the emulator, which then refuses to know their protocol.
    command.append("--skipApiVersionCheck")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            # A group of its own: the `node` that a Python package brings starts the real one, which would stay.
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
            try:
                wait_for(lambda: process.poll() is not None or LISTENS.search(log.read_text()) is not None)
                listens = LISTENS.search(log.read_text())
                assert listens is not None, f"azurite did not start; it said: {log.read_text()[-2000:]}"
                yield listens[1]
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def make_container(endpoint: str) -> Container:
    container = Container(endpoint)
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": PROTOCOL}
    signed = "\n".join(f"{name}:{value}" for name, value in headers.items())
    text = f"PUT{12 * chr(10)}{signed}\n/{ACCOUNT}/{ACCOUNT}/{container.name}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    url = f"{endpoint}/{ACCOUNT}/{container.name}"
    httpx2.put(url, params={"restype": "container"}, headers=headers, timeout=60).raise_for_status()
    return container
