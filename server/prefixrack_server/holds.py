"""The holds: which versions this front end uses, so that the files of a deleted one stay until its last user is done.
Knows no HTTP and no registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefixrack_server.messages import BundleRef


class Holds:
    """Lives as long as the process. A request holds its versions while it runs, a bulk answer for all of its lines."""

    def __init__(self) -> None:
        self._counts: dict[BundleRef, int] = {}

    @contextmanager
    def hold(self, bundles: Iterable[BundleRef]) -> Iterator[None]:
        held = set(bundles)
        for bundle in held:
            self._counts[bundle] = self._counts.get(bundle, 0) + 1
        try:
            yield
        finally:
            for bundle in held:
                self._let_go(bundle)

    def _let_go(self, bundle: BundleRef) -> None:
        self._counts[bundle] -= 1
        if not self._counts[bundle]:
            del self._counts[bundle]

    def blobs(self) -> set[str]:
        """The names of the files that must stay."""
        return {sha256 for bundle in self._counts for sha256 in (bundle.manifest_sha256, bundle.tensors_sha256)}
