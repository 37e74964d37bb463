"""Every block of code in the documentation runs, or is checked as far as it can be; none is left out unseen.

A page is read from top to bottom, as a reader would type it, against a real server with tiny adapters. What a command's
stand-in does instead of running it stands in docs_stand_ins.py, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import docs_stand_ins
from docs_pages import Block, blocks_of, pages
from docs_shell import A_KEY, DocsShell
from docs_site import ROOT
from docs_workplace import (
    ADAPTERS,
    NUM_VERSIONS,
    forget_promotions,
    make_backbone,
    make_workplace,
    push_versions,
    write_peft_adapter,
)
from prefixrack.testing import TinyAdapter, TinyServer
from prefixrack.types import PredictResponse
from prefixrack_server.config import load_config
from prefixrack_server.declared import Declaration

PAGES = [page for page in pages() if blocks_of(page)]


@dataclass(frozen=True)
class Elsewhere:
    """A page's blocks in a language are run by another test, all `but` those with this in them."""

    page: str
    language: str
    test: str
    but: str | None = None

    def has(self, block: Block) -> bool:
        is_left = self.but is not None and self.but in block.text
        return (block.page, block.language) == (self.page, self.language) and not is_left


# Blocks that other tests run, for what they need is theirs: the embedded backbone, other clients, many epochs.
ELSEWHERE = (
    Elsewhere("adapters/README.md", "python", "adapters/test_readme.py"),
    Elsewhere("docs/compatibility.md", "python", "compatibility/test_guide.py"),
    Elsewhere("docs/operations.md", "bash", "server/test_restore_drill.py", but="prefixrack evaluate"),
    Elsewhere("docs/training.md", "python", "adapters/test_training_guide.py"),
    Elsewhere("docs/training.md", "json", "adapters/test_training_guide.py"),
    Elsewhere("docs/training.md", "toml", "adapters/test_training_guide.py"),
)
# JSON is what such a model takes.
MODELS: Mapping[str, type[BaseModel]] = {"docs/quickstart.md": PredictResponse, "deploy/README.md": Declaration}
# Text that is no code and that nothing can run, by how it begins.
TEXTS: Mapping[str, str] = {
    "adapter.json <hex sha256": "the bytes that are hashed; adapters/test_bundle.py",
    "2 · layers · hidden": "a formula; docs/test_scaling.py",
}
NEED_PEFT = ("docs/importing.md",)
ROLL_BACK = ("client/README.md",)  # with something to roll back to


@dataclass(frozen=True)
class Reader:
    """Somebody who types what a page says."""

    page: str
    folder: Path
    server: TinyServer
    shell: DocsShell
    fixture: Callable[[str], Any]

    def here(self, text: str) -> str:
        """With this server's address instead of the one that everybody has, and a key instead of a gap."""
        text = re.sub(r"http://(?:127\.0\.0\.1|localhost):8000", self.server.base_url, text)
        return re.sub(r"\bpr_…|(?<=PREFIXRACK_API_KEY=)…", A_KEY, text)


def run_bash(block: Block, reader: Reader) -> None:
    reader.shell.run(reader.here(block.text))


def run_console(block: Block, reader: Reader) -> None:
    """Lines behind a prompt; there is no output among them."""
    lines = block.text.splitlines()
    assert all(line.startswith("$ ") for line in lines), "a line of a console block is a command behind `$ `"
    reader.shell.run(reader.here("\n".join(line.removeprefix("$ ") for line in lines)))


def run_python(block: Block, reader: Reader) -> None:
    names: dict[str, Any] = {}
    with chdir(reader.folder):
        exec(compile(reader.here(block.text), block.place, "exec"), names)
        for test in [value for name, value in names.items() if name.startswith("test_")]:
            test(*(reader.fixture(argument) for argument in test.__code__.co_varnames[: test.__code__.co_argcount]))


def check_json(block: Block, reader: Reader) -> None:
    whole = re.sub(r'"([0-9a-f]+)…"', lambda found: f'"{found[1].ljust(64, "0")}"', block.text)
    MODELS[block.page].model_validate(json.loads(whole))


def check_dotenv(block: Block, reader: Reader) -> None:
    """Settings, one a line, that a server knows."""
    with pytest.MonkeyPatch.context() as environment:
        for line in block.text.splitlines():
            name, _, value = line.partition("=")
            environment.setenv(name, value)
        load_config({})


def check_text(block: Block, reader: Reader) -> None:
    """Options are those of `prefixrack train`; anything else is named in TEXTS."""
    if block.text.startswith("--"):
        reader.shell.run(f"prefixrack train --task text-classification --train a --dev b --output c {block.text}")
    else:
        assert any(block.text.startswith(beginning) for beginning in TEXTS), "name it in TEXTS, and why it is no code"


LANGUAGES: Mapping[str, Callable[[Block, Reader], None]] = {
    "bash": run_bash,
    "console": run_console,
    "python": run_python,
    "json": check_json,
    "dotenv": check_dotenv,
    "text": check_text,
}


@pytest.fixture(scope="session")
def prefixrack_adapters() -> Mapping[str, TinyAdapter]:
    return ADAPTERS


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="session")
def server(prefixrack_server: TinyServer, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyServer:
    with prefixrack_server.client() as client:
        push_versions(client, tmp_path_factory.mktemp("versions"), backbone)
    return prefixrack_server


@pytest.fixture
def reader(
    request: pytest.FixtureRequest, server: TinyServer, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Reader:
    page = request.getfixturevalue("page").relative_to(ROOT).as_posix()
    monkeypatch.setenv("PREFIXRACK_BASE_URL", server.base_url)
    make_workplace(tmp_path / "here", backbone)
    if page in NEED_PEFT:
        write_peft_adapter(tmp_path / "here" / "their-adapter", backbone)
    with server.client() as client:
        forget_promotions(client)
        if page in ROLL_BACK:
            client.promote("intent", NUM_VERSIONS)
    shell = DocsShell(page, tmp_path / "here", tmp_path / "programs", server.base_url, backbone)
    return Reader(page, tmp_path / "here", server, shell, request.getfixturevalue)


# PEFT asks for a name that transformers has changed
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_its_blocks_work_from_top_to_bottom(page: Path, reader: Reader) -> None:
    for block in blocks_of(page):
        if any(other.has(block) for other in ELSEWHERE):
            continue
        assert block.language in LANGUAGES, f"{block.place}: say what {block.language!r} is: {', '.join(LANGUAGES)}"
        try:
            LANGUAGES[block.language](block, reader)
        except Exception as error:
            error.add_note(f"in the block at {block.place}")
            raise


@pytest.mark.parametrize("other", ELSEWHERE, ids=lambda other: f"{other.page}-{other.language}")
def test_what_runs_elsewhere_is_read_there(other: Elsewhere) -> None:
    assert any(other.has(block) for block in blocks_of(ROOT / other.page))
    text = (ROOT / "tests" / other.test).read_text(encoding="utf-8")
    assert Path(other.page).name in text
    assert f"```{other.language}" in text


@pytest.fixture
def page() -> Path:
    return ROOT / "README.md"


@pytest.mark.parametrize(
    ("commands", "complaint"),
    [
        ("nonsense --at-all", "the tests do not know the command nonsense"),
        ("prefixrack serve --backbon embedded", "No such option: --backbon"),
        ("PREFIXRACK_HTTP__PRT=80 prefixrack serve", "http.prt"),
        ("prefixrack predict nobody 'a text'", "adapter_not_found"),
        ("prefixrack import peft theirs --out mine", "Missing option '--backbone'"),
        ("make nowhere", "the Makefile has no target 'nowhere'"),
        ("pip install 'prefixrack[nothing]'", "is neither the project's nor pinned"),
        ("docker compose up -d", "there is no compose.yaml"),
        ("python benchmarks/churn.py --minutes 1", "benchmarks/churn.py has no option --minutes"),
        ("curl http://127.0.0.1:8000/v1/nobody", "404"),
        ("serve run --app-dir deploy/ray serve_app:nothing", "has no function nothing"),
        ("false; echo on", "the line that failed: false"),
    ],
)
def test_what_would_not_work_fails(reader: Reader, commands: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        reader.shell.run(reader.here(commands))


REASONS = [
    *docs_stand_ins.PARSED_COMMANDS.values(),
    *docs_stand_ins.PARSED_ON_PAGES.values(),
    *(reason for _, reason in docs_stand_ins.CHECKED.values()),
    *TEXTS.values(),
    *(other.test for other in ELSEWHERE),
]


@pytest.mark.parametrize("reason", sorted(set(REASONS)))
def test_a_reason_names_tests_that_there_are(reason: str) -> None:
    for name in re.findall(r"[\w/*]+\.py", reason):
        assert list((ROOT / "tests").glob(name)), name


def test_every_rule_is_used() -> None:
    """A rule for a page or a command that is no more is taken out."""
    commands = {(block.page, block.text) for page in PAGES for block in blocks_of(page)}
    for page, name in docs_stand_ins.PARSED_ON_PAGES:
        assert any(page == place and f"prefixrack {name} " in text for place, text in commands), (page, name)
    for name in docs_stand_ins.CHECKED:
        assert any(re.search(rf"^(?:\w+=\S+ |\$ )*{name} ", text, re.MULTILINE) for _, text in commands), name
    for beginning in TEXTS:
        assert any(text.startswith(beginning) for _, text in commands), beginning
