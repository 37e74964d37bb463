"""The library below the server: bundles, tasks, the frozen backbone, training. Knows no HTTP, no database, no tenants.

Names are loaded on first use, so that importing the package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone, PackRow
    from prefixrack_adapters.manifest import Manifest
    from prefixrack_adapters.rows import Row
    from prefixrack_adapters.spec import BackboneSpec

HOMES = {
    "Adapter": "adapter",
    "Backbone": "backbone",
    "BackboneSpec": "spec",
    "Manifest": "manifest",
    "PackRow": "backbone",
    "Row": "rows",
}

__all__ = ["Adapter", "Backbone", "BackboneSpec", "Manifest", "PackRow", "Row"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
