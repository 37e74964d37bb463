"""The page at /docs: whole without any other host, and under a policy that says so."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urljoin

import pytest

LINK = re.compile(r'(?:href|src|url)(?:=|: )"([^"]+)"')


async def test_everything_that_the_page_names_is_here(server: Any) -> None:
    page = await server.client.get("/docs")
    start = await server.client.get("/docs/start.js")
    links = [link for link in LINK.findall(page.text + start.text) if link != "data:,"]
    assert {"docs/assets/swagger-ui-bundle.js", "docs/assets/swagger-ui.css", "openapi.json"} <= set(links)
    for link in links:
        assert "//" not in link
        response = await server.client.get(urljoin("/docs", link))
        assert response.status_code == 200, link
        assert len(response.content) > 50


async def test_the_files_are_what_the_page_takes_them_for(server: Any) -> None:
    script = await server.client.get("/docs/assets/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "SwaggerUIBundle" in script.text
    style = await server.client.get("/docs/assets/swagger-ui.css")
    assert style.headers["content-type"].startswith("text/css")
    again = await server.client.get("/docs/assets/swagger-ui.css", headers={"If-None-Match": style.headers["etag"]})
    assert again.status_code == 304


async def test_the_page_may_load_and_ask_this_server_alone(server: Any) -> None:
    policy = (await server.client.get("/docs")).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    assert "http" not in policy


@pytest.mark.parametrize("path", ["/docs/assets/nothing.js", "/docs/assets/../core.py", "/docs/assets/%2e%2e/core.py"])
async def test_other_files_are_not_served(server: Any, path: str) -> None:
    response = await server.client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(("auth", "is_needed"), [("keys", True), ("none", False)])
async def test_the_document_says_how_a_key_is_sent(serving: Any, auth: str, is_needed: bool) -> None:
    async with serving(http={"auth": auth}) as server:
        document = (await server.client.get("/openapi.json")).json()
    assert ("securitySchemes" in document["components"]) == is_needed
    assert document.get("security", []) == ([{"bearer": []}, {"header": []}] if is_needed else [])
    assert document["paths"]["/health/live"]["get"]["security"] == []
