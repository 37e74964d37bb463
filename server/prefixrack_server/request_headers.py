"""The headers of a request, for who asks for several of them. Knows no route."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope


class IndexedHeaders(Headers):
    """Found in a dictionary: the base class decodes and compares one after the other, whenever it is asked."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._values: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of a name that is there twice, the first

    def __getitem__(self, key: str) -> str:
        return self._values[key.lower().encode("latin-1")].decode("latin-1")

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")
