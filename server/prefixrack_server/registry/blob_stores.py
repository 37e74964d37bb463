"""The blob stores: which one the settings mean. Knows URLs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefixrack_server.config import ConfigError, RegistryConfig
from prefixrack_server.registry.blobs import BlobStore, LocalBlobStore


def open_blobs(config: RegistryConfig) -> BlobStore:
    """Raises ConfigError for a URL that cannot be used."""
    if config.blobs_url is None:
        return LocalBlobStore(config.blobs_dir)
    url = config.blobs_url.get_secret_value()
    if url.startswith("file:"):
        return LocalBlobStore(Path(unquote(urlsplit(url).path)))
    from obstore.exceptions import BaseError

    from prefixrack_server.registry.object_blobs import ObjectBlobStore

    try:
        return ObjectBlobStore.open(url, config.blob_cache_dir, config.blob_cache_bytes)
    except BaseError as error:
        raise ConfigError(f"setting registry.blobs_url cannot be used: {str(error).splitlines()[0]}") from None
