"""A real browser for tests, and axe-core in it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from real_parts import missing, program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 120_000  # where others use the machine


@contextmanager
def running_chromium() -> Iterator[Browser]:
    for package in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(package) is None:
            missing(f"{package} is not installed: pip install -e '.[dev]'")
    from playwright.sync_api import sync_playwright

    executable = program("chromium", "apt-get install chromium")
    # its sandbox refuses to start for root
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()


def violations(page: Page) -> dict[str, list[str]]:
    """What axe-core finds, by its rule."""
    from axe_playwright_python.sync_playwright import Axe

    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return {rule["id"]: [f"{node['html']} {node['any'][:1]}" for node in rule["nodes"]] for rule in found}
