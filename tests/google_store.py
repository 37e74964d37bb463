"""A bucket for obstore's client of Google Cloud Storage. Knows no registry.

The client speaks that service's XML API, whose requests for objects and lists are those of S3 with other names for
headers; no emulator of Google's own answers it (those that there are know the JSON API). So it is moto's store again:
what is tested is this client and its settings, not Google's service.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx2
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from obstore.store import GCSStore
from werkzeug.serving import make_server

from blob_place import BlobPlace

# What moto reads a service and a user from; it checks no signatures.
SIGNED: Final = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@dataclass(frozen=True)
class GoogleBucket(BlobPlace):
    """An empty bucket."""

    endpoint: str
    name: str = field(default_factory=lambda: f"bucket{uuid.uuid4().hex}")  # the client encodes dashes

    @property
    def url(self) -> str:
        return f"gs://{self.name}/adapters"

    @property
    def environment(self) -> dict[str, str]:
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": self._account, "GOOGLE_ALLOW_HTTP": "true"}

    @property
    def store(self) -> GCSStore:
        return GCSStore(
            self.name,
            prefix="adapters",
            service_account_key=self._account,
            client_options={"allow_http": True},
        )

    @property
    def _account(self) -> str:
        no_account = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
        return json.dumps({"gcs_base_url": self.endpoint, **no_account})


@contextmanager
def google_store() -> Iterator[str]:
    """The endpoint of a running store."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = DomainDispatcherApplication(create_backend_app)

    def signed(environ: dict[str, object], start_response: object) -> Iterable[bytes]:
        environ["HTTP_AUTHORIZATION"] = SIGNED  # the client's is an empty token
        answer: Iterable[bytes] = moto(environ, start_response)
        return answer

    server = make_server("127.0.0.1", 0, signed, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_google_bucket(endpoint: str) -> GoogleBucket:
    bucket = GoogleBucket(endpoint)
    httpx2.put(f"{endpoint}/{bucket.name}", timeout=60).raise_for_status()
    return bucket
