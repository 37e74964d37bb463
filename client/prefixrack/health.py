"""How a server says it is. Knows nothing of how it was asked."""

from __future__ import annotations

from typing import NamedTuple


class Health(NamedTuple):
    """`live`: the process works; `ready`: it takes requests now; `reason` says why it does not."""

    live: bool
    ready: bool
    reason: str | None = None
