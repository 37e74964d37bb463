"""A server with keys and the example adapters, in a process of its own, for the clients that people have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixrack import Client
from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.manifest import Manifest
from serve_process import ServeProcess

EXAMPLES = Path(__file__).parents[1] / "adapters" / "examples"
PREDICT_SCOPES = ("predict", "adapters:read")


@dataclass(frozen=True)
class World:
    """`key` may predict and read, `reader_key` read only."""

    base_url: str
    admin_key: str
    key: str
    reader_key: str

    @property
    def host(self) -> str:
        """Without the scheme, as Triton's client wants it."""
        return self.base_url.removeprefix("http://")

    def headers(self, key: str | None = None) -> dict[str, str]:
        """New ones for each call: Triton's client writes into them."""
        return {"Authorization": f"Bearer {key or self.key}"}

    def outputs(self, adapter: str, inputs: list[Any], **parameters: Any) -> list[Any]:
        """What the native route answers."""
        with Client(self.base_url, self.key) as client:
            return list(client.predict(adapter, inputs, **parameters).outputs)

    def labels(self, adapter: str) -> list[str]:
        with Client(self.base_url, self.key) as client:
            return client.get_adapter(adapter).labels


def write_sentence_embedder(folder: Path) -> None:
    """A bundle without prefix and head: the mean of the backbone's states, for which all-MiniLM-L6 was trained."""
    document = json.loads((EXAMPLES / "intent" / "adapter.json").read_bytes())
    manifest = Manifest.model_validate(
        {
            "name": "sentences",
            "task": "text-embedding",
            "backbone": document["backbone"],
            "prefix": document["prefix"] | {"prefix_len": 0},
            "head": {"gather": "mean_tokens", "layers": []},
            "tokenization": {"max_len": 256},
            "decoding": {"normalize": True},
            "provenance": {"tool": "test", "tool_version": "1", "method": "none"},
        }
    )
    write_bundle(folder, manifest, {})


@contextmanager
def running_world(folder: Path, *options: str) -> Iterator[World]:
    """With `options` of the command beside those that it needs."""
    write_sentence_embedder(folder / "sentences")
    needed = ("--backbone=embedded", f"--adapters={EXAMPLES}", f"--state-dir={folder / 'state'}")
    process = ServeProcess(folder, "serve", *needed, *options)
    try:
        process.start()
        yield _prepared(process, folder)
    finally:
        process.kill()


def _prepared(process: ServeProcess, folder: Path) -> World:
    found = re.search(r"Admin API key, shown this once: (\S+)", process.output())
    assert found is not None
    with Client(process.base_url, found[1]) as admin:
        admin.push("sentences", folder / "sentences")
        secrets = [admin.create_key(scopes).secret for scopes in (PREDICT_SCOPES, ("adapters:read",))]
    key, reader_key = (secret or "" for secret in secrets)
    return World(process.base_url, found[1], key, reader_key)
