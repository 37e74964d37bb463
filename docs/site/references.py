"""A hook of mkdocs: fills in what pages take from the code. Where a page is read elsewhere, a comment stands there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

import http_api

PAGE: Final = "docs/http-api.md"
PARTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "operations": http_api.operations,
    "codes": lambda _: http_api.codes(),
    "models": http_api.models,
}


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    if page.file.src_uri != PAGE:
        return markdown
    api = http_api.document()
    for name, written in PARTS.items():
        place = f"<!-- {name} -->"
        if markdown.count(place) != 1:
            raise PluginError(f"{PAGE} must have {place} once")
        markdown = markdown.replace(place, written(api))
    return markdown
