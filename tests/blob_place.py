"""An empty place for blobs on a running object store of any kind. Knows no registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import obstore
from obstore.store import ObjectStore


class BlobPlace(ABC):
    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What a process must have in its environment to use it."""

    @property
    @abstractmethod
    def store(self) -> ObjectStore:
        """With nothing of the registry's in between."""

    def put(self, sha256: str, content: bytes) -> None:
        """Put any bytes under a blob's name."""
        obstore.put(self.store, f"{sha256[:2]}/{sha256}", content)
