"""The registry package: metadata in SQL, files in a blob store. `Registry` is its door; the rest is behind it."""

from __future__ import annotations

from prefixrack_server.registry.blobs import BlobStore, BundleSource, LocalBlobStore
from prefixrack_server.registry.principal import NOBODY, Actor, Principal
from prefixrack_server.registry.registry import BundleFiles, Registry
from prefixrack_server.registry.versions import Version

__all__ = [
    "NOBODY",
    "Actor",
    "BlobStore",
    "BundleFiles",
    "BundleSource",
    "LocalBlobStore",
    "Principal",
    "Registry",
    "Version",
]
