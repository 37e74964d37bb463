"""Bundles from a model hub: the files of a repository, one by one, through the guard. Knows the hub's URLs.

Plain requests rather than the hub's own client: sizes are looked at before a byte is kept, and every connection is the
guard's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin

import httpx2

from prefixrack.errors import BundleTooLarge, SourceRefused, SourceUnavailable
from prefixrack_server.sources.guard import Guard, GuardedTransport

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
TIMEOUT_S = 60.0
MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 20
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")  # an encoded slash or dot would lead to what no operator has allowed


@dataclass(frozen=True, slots=True)
class HubPath:
    """`hf://owner/name[@revision][/folder]`."""

    repository: str
    revision: str
    folder: str

    @classmethod
    def parse(cls, uri: str) -> HubPath:
        parts = uri.removeprefix("hf://").strip("/").split("/")
        if len(parts) < 2 or not all(parts) or ".." in parts:
            raise SourceRefused(
                f"{uri[:200]!a} is no path on the hub: write hf://owner/name, and perhaps @revision and /folder"
            )
        name, _, revision = parts[1].partition("@")
        if not NAME.fullmatch(parts[0]) or not NAME.fullmatch(name):
            raise SourceRefused(
                f"{uri[:200]!a} is no path on the hub: owners and names have letters, digits, '.', '_' and '-'"
            )
        return cls(f"{parts[0]}/{name}", revision or DEFAULT_REVISION, "/".join(parts[2:]))

    def url(self, endpoint: str, name: str) -> str:
        path = f"{self.folder}/{name}" if self.folder else name
        return f"{endpoint.rstrip('/')}/{self.repository}/resolve/{quote(self.revision, safe='')}/{quote(path)}"


class Hub:
    """`endpoint` None is HF_ENDPOINT's, or the public hub. A token in HF_TOKEN goes to the endpoint's host alone."""

    def __init__(self, guard: Guard, endpoint: str | None = None) -> None:
        self._endpoint = endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
        self._guard = guard

    def fetch(self, path: HubPath, name: str, target: Path, max_bytes: int) -> bool:
        """Write a file to `target`; False where the repository has none of this name. Blocks.

        Raises SourceRefused, SourceUnavailable or BundleTooLarge.
        """
        with httpx2.Client(transport=GuardedTransport(self._guard), timeout=TIMEOUT_S) as http:
            try:
                return self._follow(http, path.url(self._endpoint, name), target, max_bytes)
            except httpx2.HTTPError as error:
                raise SourceUnavailable(
                    f"{path.repository} on the hub cannot be read ({type(error).__name__}): try again later",
                    retry_after_s=5,
                ) from error

    def _follow(self, http: httpx2.Client, url: str, target: Path, max_bytes: int) -> bool:
        home = httpx2.URL(url).host
        for _ in range(MAX_REDIRECTS + 1):
            headers = self._headers() if httpx2.URL(url).host == home else {}
            with http.stream("GET", url, headers=headers) as response:
                if response.is_redirect:
                    url = urljoin(url, response.headers.get("location", ""))
                    continue
                return self._take(response, target, max_bytes)
        raise SourceRefused(f"the hub redirects more than {MAX_REDIRECTS} times: check the source")

    def _take(self, response: httpx2.Response, target: Path, max_bytes: int) -> bool:
        if response.status_code == 404:
            return False
        if response.status_code in (401, 403):
            raise SourceRefused("the hub refuses: the repository is private or gated; set HF_TOKEN for the server")
        response.raise_for_status()
        num_bytes = 0
        with target.open("wb") as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise BundleTooLarge(f"{target.name} has more than {max_bytes:,} bytes, which are allowed")
                file.write(chunk)
        return True

    def _headers(self) -> dict[str, str]:
        token = os.environ.get("HF_TOKEN")
        return {"Authorization": f"Bearer {token}"} if token else {}
