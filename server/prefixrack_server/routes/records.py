"""What is on record of a tenant: the audit log, and the usage as pages of JSON or as one CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from prefixrack.types import AuditPage, UsageLine, UsagePage
from prefixrack_server.auth import TenantAdmin
from prefixrack_server.documentation import ADMIN_PROBLEMS
from prefixrack_server.registry.registry import Registry
from prefixrack_server.routes.paging import Limit, TenantName
from prefixrack_server.services import services_of

LINES_A_CHUNK: Final = 1000
COLUMNS: Final = tuple(UsageLine.model_fields)
CSV_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}, "example": ",".join(COLUMNS) + "\r\n"}}}
}

Day = Annotated[date | None, Query(description="A day in UTC, as 2030-01-31; included")]

router = APIRouter(prefix="/admin/v1", tags=["records"], responses=ADMIN_PROBLEMS)


@router.get("/audit")
async def list_audit(
    request: Request,
    caller: TenantAdmin,
    limit: Limit = 100,
    cursor: str | None = None,
    tenant: TenantName = None,
    action: Annotated[str | None, Query(max_length=64, description="One action, or how several begin")] = None,
    adapter: Annotated[str | None, Query(max_length=63, description="Only lines about this adapter")] = None,
) -> AuditPage:
    """Who changed what of a tenant's things, newest first. Lines are written with the change and never altered."""
    registry, is_admin = services_of(request).registry, "admin" in caller.principal.scopes
    lines, next_cursor = await registry.list_audit(caller.owner(tenant), limit, cursor, action, adapter, is_admin)
    return AuditPage(data=lines, next_cursor=next_cursor)


@router.get("/usage", response_model=UsagePage, responses=CSV_ANSWER)
async def show_usage(
    request: Request,
    caller: TenantAdmin,
    since: Day = None,
    until: Day = None,
    limit: Limit = 100,
    cursor: str | None = None,
    tenant: TenantName = None,
    form: Annotated[
        Literal["json", "csv"], Query(alias="format", description="csv is all days in one answer")
    ] = "json",
) -> Response | UsagePage:
    """Requests, rows and tokens of a tenant by day (UTC) and adapter. The last ten seconds may be missing.

    A fan-out counts as a request of each of its adapters, a bulk body as one.
    """
    registry, owner = services_of(request).registry, caller.owner(tenant)
    if form == "csv":
        headers = {"Content-Disposition": f'attachment; filename="usage-{owner}.csv"'}
        return StreamingResponse(_csv(registry, owner, since, until), media_type="text/csv", headers=headers)
    lines, next_cursor = await registry.list_usage(owner, since, until, limit, cursor)
    return UsagePage(data=lines, next_cursor=next_cursor)


async def _csv(registry: Registry, tenant: str, since: date | None, until: date | None) -> AsyncIterator[str]:
    """RFC 4180, a page at a time: a year of ten thousand adapters does not lie in memory."""
    yield _csv_lines([COLUMNS])
    cursor: str | None = None
    while True:
        lines, cursor = await registry.list_usage(tenant, since, until, LINES_A_CHUNK, cursor)
        yield _csv_lines([tuple(line.model_dump().values()) for line in lines])
        if cursor is None:
            return


def _csv_lines(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
