"""The page at /console: static files of this package, with nothing from another host. Knows no route of the API.

What the page shows it asks the public API for, with its user's key. All links are relative, so that it works behind a
proxy that puts a path in front.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER: Final = Path(__file__).parent / "console"
IMPORT_MAP: Final = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)
# Browsers may keep the files, but ask each time whether they are still those of this server.
SHARED_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install_console(app: FastAPI) -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    headers = SHARED_HEADERS | {"Content-Security-Policy": content_security_policy(page)}

    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    app.add_api_route("/console", show, include_in_schema=False)
    app.add_api_route("/console/", _without_slash, include_in_schema=False)
    app.mount("/console/assets", ConsoleFiles(directory=FOLDER))


def content_security_policy(page: str) -> str:
    """Scripts, styles and requests of this server alone. An import map can only be inline: it is named by its hash."""
    import_maps = [
        f" 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in IMPORT_MAP.findall(page)
    ]
    return (
        f"default-src 'none'; script-src 'self'{''.join(import_maps)}; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


class ConsoleFiles(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(SHARED_HEADERS)
        return response


async def _without_slash() -> RedirectResponse:
    """The page's links are relative to the address without it."""
    return RedirectResponse("../console", status_code=308)
