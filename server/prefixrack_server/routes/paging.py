"""What the routes of lists have in common: how many entries a page has, and whose they are. Knows no list."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Limit = Annotated[int, Query(ge=1, le=1000)]
TenantName = Annotated[
    str | None, Query(max_length=63, description="For admins of all tenants; by default the key's own")
]
