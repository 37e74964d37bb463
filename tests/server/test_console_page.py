"""The files of /console: whole without any other host, under a policy that says so, and no others."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from prefixrack.errors import BundleFault

CONSOLE = Path(str(files("prefixrack_server") / "console"))
VENDOR = CONSOLE / "vendor"
LINK = re.compile(r'(?:href|src)="([^"]+)"')
IMPORT = re.compile(r'(?:from|import) "([^"]+)"')
IMPORT_MAP_ENTRY = re.compile(r'"([\w/]+)": "\./(console/assets/[^"]+)"')
OWN_MODULES = sorted(path for path in CONSOLE.rglob("*.js") if VENDOR not in path.parents)


async def test_everything_that_the_page_names_is_here(server: Any) -> None:
    page = (await server.client.get("/console")).text
    links = LINK.findall(page) + [path for _, path in IMPORT_MAP_ENTRY.findall(page)]
    assert {"console/assets/main.js", "console/assets/vendor/preact/preact.mjs"} <= set(links)
    for link in links:
        assert "//" not in link
        response = await server.client.get(urljoin("/console", link))
        assert response.status_code == 200, link


async def test_modules_import_what_is_there(server: Any) -> None:
    known = {name for name, _ in IMPORT_MAP_ENTRY.findall((await server.client.get("/console")).text)}
    assert len(OWN_MODULES) > 20
    for module in OWN_MODULES:
        for imported in IMPORT.findall(module.read_text(encoding="utf-8")):
            is_there = (module.parent / imported).is_file() if imported.startswith(".") else imported in known
            assert is_there, f"{module.name} imports {imported}"


async def test_the_page_may_load_and_ask_this_server_alone(server: Any) -> None:
    page = await server.client.get("/console")
    rules = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == rules["style-src"] == "'self'"
    # the hash names the one inline script, an import map
    assert re.fullmatch(r"'self' 'sha256-[\w+/]+='", rules["script-src"])
    assert "unsafe" not in page.headers["content-security-policy"]


async def test_files_are_asked_for_again_and_sent_only_when_they_changed(server: Any) -> None:
    first = await server.client.get("/console/assets/main.js")
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["x-content-type-options"] == "nosniff"
    again = await server.client.get("/console/assets/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_the_address_with_a_slash_leads_to_the_one_without(server: Any) -> None:
    response = await server.client.get("/console/")
    assert (response.status_code, response.headers["location"]) == (308, "../console")


@pytest.mark.parametrize("path", ["nothing.js", "../app.py", "%2e%2e/app.py", "vendor"])
async def test_other_files_are_not_served(server: Any, path: str) -> None:
    response = await server.client.get(f"/console/assets/{path}")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


async def test_the_page_needs_no_key_and_is_no_part_of_the_api(serving: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        assert (await server.client.get("/console")).status_code == 200
        assert not any("console" in path for path in (await server.client.get("/openapi.json")).json()["paths"])


def test_modules_of_others_are_as_they_were_published() -> None:
    lines = [line.split("  ") for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    found = {
        str(path.relative_to(VENDOR)) for folder in VENDOR.iterdir() if folder.is_dir() for path in folder.iterdir()
    }
    assert set(listed) == found
    assert {f"{folder.name}/LICENSE" for folder in VENDOR.iterdir() if folder.is_dir()} <= found
    for name, digest in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


def test_nothing_own_is_html_or_code_in_a_string() -> None:
    """What models and users write goes into the page as text: the policy forbids the rest too."""
    for module in OWN_MODULES:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|dangerouslySetInnerHTML|\beval\(|new Function|localStorage", text), module.name


def test_the_upload_page_has_a_check_for_every_fault_of_a_bundle() -> None:
    checks = (CONSOLE / "lib" / "upload.js").read_text(encoding="utf-8").partition("const CHECKS")[2]
    shown = set(re.findall(r'"([a-z_]+)"', checks.partition("];")[0]))
    assert {fault.code for fault in BundleFault.__subclasses__()} == shown - {"payload_too_large"}
