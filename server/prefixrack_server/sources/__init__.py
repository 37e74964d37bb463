"""The sources: bundles that are fetched from where they lie, by URI, instead of being sent. `Sources` is the door."""

from __future__ import annotations

from prefixrack_server.sources.sources import Sources

__all__ = ["Sources"]
