"""What the routes of lists have in common: how many entries a page has. Knows no list."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Limit = Annotated[int, Query(ge=1, le=1000)]
