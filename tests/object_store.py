"""An object store of one's own that speaks S3 over HTTP, in this process: moto's. Knows no registry."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from blob_place import BlobPlace


@dataclass(frozen=True)
class Bucket(BlobPlace):
    """An empty bucket."""

    endpoint: str
    name: str = field(default_factory=lambda: f"bucket-{uuid.uuid4().hex}")

    @property
    def url(self) -> str:
        return f"s3://{self.name}/adapters"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    @property
    def store(self) -> S3Store:
        return S3Store(
            self.name,
            prefix="adapters",
            endpoint=self.endpoint,
            access_key_id="test",
            secret_access_key="test",
            region="us-east-1",
            client_options={"allow_http": True},
        )


@contextmanager
def object_store() -> Iterator[str]:
    """The endpoint of a running store."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def make_bucket(endpoint: str) -> Bucket:
    bucket = Bucket(endpoint)
    httpx2.put(f"{endpoint}/{bucket.name}", timeout=60).raise_for_status()
    return bucket
