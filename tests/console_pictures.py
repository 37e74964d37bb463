"""Takes the pictures of the console that docs/console.md shows: `python tests/console_pictures.py`.

They show a real server with two tenants, several adapters and some traffic, as a real browser draws it. With a folder
as argument it takes one of every page there instead, light and dark, wide and as a phone, to look at after a change.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from chromium import PATIENCE_MS, running_chromium
from prefixrack import Client
from serve_process import ServeProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "adapters" / "examples"
TENANT = "support"
SETTLE_S = 5
TRAFFIC_S = 70  # the console's numbers are those of a minute
SIZES = {"wide": (1280, 900), "phone": (390, 844)}
SENTENCE = "Ada Lovelace met Charles Babbage in London. He played for Manchester United at Wembley Stadium."
ROLES = {"tokens": ["He", "left", "London", "for", "Paris"], "predicate_index": 1}
INPUTS: dict[str, Any] = {
    "intent": ["how much money do i have in my checking account", "book me a table for two", "set an alarm for six"],
    "emotions": ["thank you so much, this made my day", "why is this still broken"],
    "ner": [SENTENCE],
    "qa": [{"question": "When was it opened?", "context": "The Eiffel Tower was opened in 1889 in Paris."}],
    "tickets": ["what is my balance", "i lost my card and need a new one", "transfer ten dollars to my savings"],
}


@dataclass(frozen=True)
class Shot:
    """What a picture shows: a place in the console, what is done there before, and how the page is."""

    name: str
    place: str
    act: Callable[[Page], None] = lambda page: None
    height: int = 900
    scheme: Any = "light"


def change_bundle(scratch: Path, base: str, **fields: Any) -> Path:
    """A copy of an example with other fields in its manifest: another version."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / base
    shutil.copytree(EXAMPLES / base, folder)
    path = folder / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def furnish(admin: Client, scratch: Path) -> str:
    """Tenants, adapters and a rollout as people have them. Returns the key of an operator, who has a name."""
    admin.create_tenant(TENANT, quotas={"requests_per_minute": 6000, "tokens_per_minute": 600_000})
    for name, base in (("tickets", "intent"), ("mood", "emotions"), ("product-names", "ner"), ("manual", "qa")):
        admin.push(f"{TENANT}:{name}", EXAMPLES / base)
    tickets = f"{TENANT}:tickets"
    admin.promote(tickets, 1)
    for text in ("Trained on what customers asked in spring.", "Trained on what customers asked in autumn."):
        admin.push(tickets, change_bundle(scratch, "intent", description=text))
    admin.promote(tickets, 2)
    admin.set_gates(tickets, ["accuracy>=0.9"])
    admin.start_canary(tickets, 3, 0.15)
    admin.start_shadow(tickets, 1)
    # The weights are those of entities: this shows the form, no page of the documentation shows its answer.
    admin.push("roles", change_bundle(scratch, "ner", name="roles", input_format="srl", example=ROLES))
    admin.create_key(["predict", "adapters:read"], name="website", tenant=TENANT)
    return admin.create_key(["admin"], name="ada").secret or ""


@contextmanager
def traffic(address: str, key: str) -> Iterator[None]:
    """Callers of both tenants, until the pictures are taken."""
    ended = threading.Event()

    def ask(adapter: str, inputs: list[Any], pause_s: float) -> None:
        with Client(address, key) as client:
            place = 0
            while not ended.wait(pause_s):
                client.predict(adapter, inputs[place % len(inputs)])
                place += 1

    callers = [
        threading.Thread(target=ask, args=(adapter, INPUTS[base], pause_s))
        for adapter, base, pause_s in (
            (f"{TENANT}:tickets", "tickets", 0.06),
            (f"{TENANT}:mood", "emotions", 0.15),
            (f"{TENANT}:product-names", "ner", 0.3),
            ("intent", "intent", 0.1),
            ("ner", "ner", 0.25),
            ("qa", "qa", 0.4),
        )
    ]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        ended.set()
        for caller in callers:
            caller.join()


@contextmanager
def furnished_server() -> Iterator[tuple[str, str]]:
    """Its address, and an operator's key."""
    with tempfile.TemporaryDirectory(prefix="console-pictures-") as scratch:
        folder = Path(scratch)
        process = ServeProcess(
            folder, "serve", "--backbone=embedded", f"--adapters={EXAMPLES}", f"--state-dir={folder / 'state'}"
        )
        try:
            process.start()
            found = re.search(r"Admin API key, shown this once: (\S+)", process.output())
            assert found is not None
            with Client(process.base_url, found[1]) as admin:
                key = furnish(admin, folder)
            yield process.base_url, key
        finally:
            process.kill()


def take(browser: Browser, address: str, key: str, shot: Shot, file: Path, size: tuple[int, int], full: bool) -> None:
    context = browser.new_context(
        color_scheme=shot.scheme, viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce"
    )
    context.add_init_script(f"sessionStorage.setItem('prefixrack.key', '{key}')")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{address}/console#/{shot.place}")
    page.locator("h1").first.wait_for()
    page.locator(".loading").first.wait_for(state="detached")
    shot.act(page)
    page.screenshot(path=file, full_page=full)
    context.close()


def run_with(**fields: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        for label, text in fields.items():
            page.get_by_label(label).fill(text)
        page.get_by_role("button", name="Run").click()
        page.locator(".usage").wait_for()

    return act


def watch(page: Page) -> None:
    """Curves come by the second."""
    time.sleep(TRAFFIC_S)


def settle(page: Page) -> None:
    """Rates need two readings of the metrics."""
    time.sleep(SETTLE_S)


def open_canary(page: Page) -> None:
    settle(page)
    page.get_by_role("button", name="Canary").click()


def compare(page: Page) -> None:
    for version in (2, 3):
        page.get_by_label(f"Compare version {version}").check()
    page.locator(".diff tbody tr").first.wait_for()


def press(name: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.get_by_role("button", name=name).first.click()
        page.get_by_role("dialog").wait_for()

    return act


TICKETS = f"adapters/{TENANT}%3Atickets"
SHOWN = (
    Shot("live", "live", watch, 640, "dark"),
    Shot("adapters", f"adapters?tenant={TENANT}", settle, 620),
    Shot("adapter", TICKETS, open_canary),
    Shot("playground", "playground?adapters=ner", run_with(Text=SENTENCE), 820),
)
LOOKED_AT = (
    Shot("live", "live", settle),
    Shot("adapters", "adapters", settle),
    Shot("adapters-tenant", f"adapters?tenant={TENANT}", settle),
    Shot("adapter", TICKETS, open_canary),
    Shot("adapter-compare", TICKETS, compare),
    Shot("adapter-promote", TICKETS, press("Promote a version")),
    Shot("playground", "playground?adapters=ner", run_with(Text=SENTENCE)),
    Shot("playground-labels", f"playground?adapters={TENANT}%3Atickets@2,{TENANT}%3Atickets@3,emotions", run_with()),
    Shot("playground-roles", "playground?adapters=roles", run_with()),
    Shot(
        "playground-nearest",
        "playground?adapters=qa",
        run_with(Question="Who lives in Zürich?", Context="Ada lives in Zürich."),
    ),
    Shot("upload", f"upload?tenant={TENANT}"),
    Shot("keys", "keys"),
    Shot("keys-new", "keys", press("New key")),
)


def main(arguments: list[str]) -> None:
    with furnished_server() as (address, key), running_chromium() as browser:
        if arguments:
            take_all(browser, address, key, Path(arguments[0]))
        else:
            take_shown(browser, address, key)


def take_shown(browser: Browser, address: str, key: str) -> None:
    with traffic(address, key):
        for shot in SHOWN:
            file = REPOSITORY / "docs" / f"console-{shot.name}.png"
            take(browser, address, key, shot, file, (1280, shot.height), full=False)
            Image.open(file).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


def take_all(browser: Browser, address: str, key: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with traffic(address, key):
        time.sleep(SETTLE_S)
    for shot in LOOKED_AT:
        for scheme in ("light", "dark"):
            for width, size in SIZES.items():
                file = folder / f"{shot.name}-{scheme}-{width}.png"
                take(browser, address, key, replace(shot, scheme=scheme), file, size, full=True)


if __name__ == "__main__":
    main(sys.argv[1:])
