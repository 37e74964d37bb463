"""The holds: which versions are being used, so that the files of a deleted one stay until its last user is done.
Knows no HTTP and no registry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefixrack_server.messages import BundleRef


class Holds:
    """Lives as long as the process. A request holds its versions while it runs, a bulk answer for all of its lines."""

    def __init__(self) -> None:
        self._counts: Counter[BundleRef] = Counter()

    @contextmanager
    def hold(self, bundles: Iterable[BundleRef]) -> Iterator[None]:
        held = set(bundles)
        self._counts.update(held)
        try:
            yield
        finally:
            self._counts.subtract(held)
            self._counts += Counter()  # without those that nobody holds any more

    def blobs(self) -> set[str]:
        """The names of the files that must stay."""
        return {sha256 for bundle in self._counts for sha256 in (bundle.manifest_sha256, bundle.tensors_sha256)}
