"""The holds: which versions this front end uses, so that the files of a deleted one stay until its last user is done.
Knows no HTTP and no registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefixrack_server.messages import BundleRef


class Holds:
    """Lives as long as the process. A request holds its versions while it runs, a bulk answer for all of its lines."""

    def __init__(self) -> None:
        self._held: dict[str, list[BundleRef]] = {}  # by digest, one entry for every hold

    @contextmanager
    def hold(self, bundles: Iterable[BundleRef]) -> Iterator[None]:
        held = {bundle.digest: bundle for bundle in bundles}
        for digest, bundle in held.items():
            self._held.setdefault(digest, []).append(bundle)
        try:
            yield
        finally:
            for digest in held:
                self._let_go(digest)

    def _let_go(self, digest: str) -> None:
        self._held[digest].pop()
        if not self._held[digest]:
            del self._held[digest]

    def blobs(self) -> set[str]:
        """The names of the files that must stay."""
        return {
            sha256 for bundle, *_ in self._held.values() for sha256 in (bundle.manifest_sha256, bundle.tensors_sha256)
        }
