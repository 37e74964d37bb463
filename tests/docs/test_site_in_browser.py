"""The site as its readers see it: on a phone and on a desk, light and dark, with no other host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from chromium import PATIENCE_MS, running_chromium, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ON_A_PHONE = (".", "quickstart", "comparison", "deploy", "training", "performance")
ON_A_DESK = (".", "http-api", "library", "architecture", "importing")
WIDE, PHONE = (1280, 800), (390, 800)
Scheme = Literal["light", "dark"]
# Of the theme's own markup, which only a copy of its templates could change: the dialog of the search and the buttons
# of code have no names, wide tables scroll by touch, and the first column of a table of pairs has no title.
OF_THE_THEME = {"aria-dialog-name", "empty-table-header", "landmark-unique", "scrollable-region-focusable"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Requests are nobody's business."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as chromium:
        yield chromium


def watched(browser: Browser, address: str, scheme: Scheme, size: tuple[int, int]) -> tuple[Page, list[str]]:
    """A tab, and what it complained of or asked another host for."""
    complaints: list[str] = []
    page = browser.new_context(color_scheme=scheme, viewport={"width": size[0], "height": size[1]}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: None if is_from(address, asked.url) else complaints.append(asked.url))
    return page, complaints


def is_from(address: str, url: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


@pytest.mark.parametrize(("scheme", "size", "names"), [("light", PHONE, ON_A_PHONE), ("dark", WIDE, ON_A_DESK)])
def test_pages_can_be_read(
    browser: Browser, address: str, scheme: Scheme, size: tuple[int, int], names: tuple[str, ...]
) -> None:
    page, complaints = watched(browser, address, scheme, size)
    for name in names:
        page.goto(f"{address}/{name}/")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert {rule: found for rule, found in violations(page).items() if rule not in OF_THE_THEME} == {}, name
    assert complaints == []
    page.context.close()


def test_the_search_finds_and_the_scheme_can_be_changed(browser: Browser, address: str) -> None:
    page, complaints = watched(browser, address, "light", WIDE)
    page.goto(address)
    page.get_by_role("textbox", name="Search").fill("canary")
    page.locator(".md-search-result__item a").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_title("Dark").click()
    page.locator("body[data-md-color-scheme=slate]").wait_for()
    assert complaints == []
    page.context.close()
