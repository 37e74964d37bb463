"""Every block of code in the documentation runs; the few commands that cannot are named in docs_commands/unrun.py.

A page is read from top to bottom, as a reader would type it, in a checkout of the reader's own and against a real
server with tiny adapters, or the one that the page itself has started. How commands are run says docs_commands.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import docs_checkpoints
from docs_commands import AS_THEY_ARE, STARTED
from docs_commands.unrun import UNRUN
from docs_pages import Block, blocks_of, pages
from docs_shell import TIMEOUT_S, DocsShell, running_nursery
from docs_site import ROOT
from docs_workplace import (
    ADAPTERS,
    NUM_VERSIONS,
    forget_promotions,
    make_backbone,
    make_workplace,
    push_versions,
    write_claiming_bundle,
)
from fake_hub import running_hub
from object_store import Bucket, make_bucket, object_store
from postgres_process import new_database
from prefixrack.testing import TinyAdapter, TinyServer
from prefixrack.types import PredictResponse
from prefixrack_server.config import load_config
from prefixrack_server.declared import Declaration
from real_parts import running_postgres

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


# Blocks that other tests run, for what they need is theirs: other clients, a database to crash.
ELSEWHERE = (
    Elsewhere("adapters/README.md", "python", "adapters/test_readme.py"),
    Elsewhere("docs/compatibility.md", "python", "compatibility/test_guide.py"),
    Elsewhere("docs/operations.md", "bash", "server/test_restore_drill.py", but="prefixrack evaluate"),
    Elsewhere("docs/training.md", "json", "adapters/test_training_guide.py"),
)
# JSON is what such a model takes.
MODELS: Mapping[str, type[BaseModel]] = {"docs/quickstart.md": PredictResponse, "deploy/README.md": Declaration}
# Text that is no code and that nothing can run, by how it begins.
TEXTS: Mapping[str, str] = {
    "adapter.json <hex sha256": "the bytes that are hashed; adapters/test_bundle.py",
    "2 · layers · hidden": "a formula; docs/test_scaling.py",
}
# TOML is a file, by the name under which the page's commands ask for it.
FILES: Mapping[str, str] = {"docs/training.md": "sets.toml"}
# What a page says that its commands leave behind.
LEFT_BEHIND: Mapping[str, tuple[str, ...]] = {
    "client/README.md": ("out.jsonl", "out.csv", "intent-7/adapter.json"),
    "docs/training.md": (
        "swept/study.svg",
        "confusion.png",
        "together/home/adapter.json",
        "together/pairs/adapter.json",
        "watched.logs",
        "from-python/curves.svg",
    ),
    "benchmarks/README.md": ("benchmarks/results/training-cpu.jsonl",),
}
ROLL_BACK = ("client/README.md",)  # with something to roll back to
KEY_ID = "4f1c2ab09d7e"  # as pages write one
SHARED = "postgresql://prefixrack:"  # a page of whom servers share a database, and a bucket


@dataclass(frozen=True)
class SharedState:
    database_url: str
    bucket: Bucket


@dataclass(frozen=True)
class Reader:
    """Somebody who types what a page says. `names` are the reader's own for those that the pages give."""

    folder: Path
    shell: DocsShell
    fixture: Callable[[str], Any]
    names: Mapping[str, str]

    def here(self, text: str) -> str:
        """With this server's address instead of the one that everybody has, and a key instead of a gap."""
        text = re.sub(r"http://(?:127\.0\.0\.1|localhost):8000", self.shell.base_url, text)
        text = re.sub(r"\bpr_…|(?<=PREFIXRACK_API_KEY=)…", self.shell.api_key, text)
        for pattern, name in self.names.items():
            text = re.sub(pattern, name, text)
        return text


def run_bash(block: Block, reader: Reader) -> None:
    reader.shell.run(reader.here(block.text))


def run_console(block: Block, reader: Reader) -> None:
    """Lines behind a prompt; there is no output among them."""
    lines = block.text.splitlines()
    assert all(line.startswith("$ ") for line in lines), "a line of a console block is a command behind `$ `"
    reader.shell.run(reader.here("\n".join(line.removeprefix("$ ") for line in lines)))


def run_python(block: Block, reader: Reader) -> None:
    names: dict[str, Any] = {}
    with chdir(reader.folder), pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFIXRACK_BASE_URL", reader.shell.base_url)
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


def write_file(block: Block, reader: Reader) -> None:
    (reader.folder / FILES[block.page]).write_text(block.text)


def check_text(block: Block, reader: Reader) -> None:
    """Options are those of `prefixrack train`; anything else is named in TEXTS."""
    if block.text.startswith("--"):
        data = "--task text-classification --train train.jsonl --dev dev.jsonl"
        reader.shell.run(f"prefixrack train {data} --output by-{block.line} {block.text}")
    else:
        assert any(block.text.startswith(beginning) for beginning in TEXTS), "name it in TEXTS, and why it is no code"


LANGUAGES: Mapping[str, Callable[[Block, Reader], None]] = {
    "bash": run_bash,
    "console": run_console,
    "python": run_python,
    "json": check_json,
    "dotenv": check_dotenv,
    "text": check_text,
    "toml": write_file,
}


@pytest.fixture(scope="session")
def prefixrack_adapters() -> Mapping[str, TinyAdapter]:
    return ADAPTERS


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="session")
def hub(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model hub with the bundle that pages name; its address."""
    bundle = tmp_path_factory.mktemp("hub") / "intent"
    write_claiming_bundle(bundle, backbone, seed=99)
    with running_hub() as hub:
        hub.add("my-team/intent", {path.name: path.read_bytes() for path in bundle.iterdir()}, revision="v3")
        yield hub.endpoint


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, hub: str, backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyServer:
    """The tiny one, which may fetch from that hub, with several versions of an adapter."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFIXRACK_SOURCES__ALLOWED", '["hf://my-team"]')
        environment.setenv("PREFIXRACK_SOURCES__PRIVATE_HOSTS", '["127.0.0.1"]')
        environment.setenv("PREFIXRACK_SOURCES__HUB_ENDPOINT", hub)
        server: TinyServer = request.getfixturevalue("prefixrack_server")
    with server.client() as client:
        push_versions(client, tmp_path_factory.mktemp("versions"), backbone)
    return server


@pytest.fixture
def shared_state() -> Iterator[SharedState]:
    """An empty PostgreSQL database and an empty bucket."""
    with running_postgres() as postgres, new_database(postgres.url()) as database, object_store() as endpoint:
        yield SharedState(database, make_bucket(endpoint))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Path]:
    with running_nursery() as socket:
        yield socket


@pytest.fixture
def reader(
    request: pytest.FixtureRequest, server: TinyServer, backbone: Path, nursery: Path, tmp_path: Path
) -> Iterator[Reader]:
    path: Path = request.getfixturevalue("page")
    page, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    folder = tmp_path / "here"
    make_workplace(folder, backbone)
    docs_checkpoints.write(page, folder, backbone)
    names = {"/data/a": f"{folder}/data/a", 'resolve_backbone\\("embedded"\\)': 'Path("base")'}
    environment: dict[str, str] = {}
    if SHARED in text:
        shared: SharedState = request.getfixturevalue("shared_state")
        names |= {rf"{SHARED}\S+": shared.database_url, "s3://bucket/adapters": shared.bucket.url}
        environment |= shared.bucket.environment
    with server.client() as client:
        forget_promotions(client)
        if page in ROLL_BACK:
            client.promote("intent", NUM_VERSIONS)
        names[KEY_ID] = client.create_key(["predict"]).id
    shell = DocsShell(page, folder, tmp_path / "programs", server.base_url, nursery, environment)
    try:
        yield Reader(folder, shell, request.getfixturevalue, names)
    finally:
        shell.kill()


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
    reader.shell.end()
    page_name = page.relative_to(ROOT).as_posix()
    assert [name for name in LEFT_BEHIND.get(page_name, ()) if not (reader.folder / name).exists()] == []


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
        ("make nowhere", "No rule to make target 'nowhere'"),
        ("pip install 'prefixrack[nothing]'", "does not provide the extra 'nothing'"),
        ("pip install nothing-of-this-name", "No matching distribution found for nothing-of-this-name"),
        ("docker compose up -d", "there is no compose.yaml"),
        ("docker run -p 9000:9000 prefixrack", "the Dockerfile has no 9000"),
        ("python benchmarks/churn.py --minutes 1", "No such option: --minutes"),
        ("python benchmarks/bench.py --minutes 1", "No such option: --minutes"),
        ("python benchmarks/gpu.py --shape round", "invalid choice: 'round'"),
        ("helm install prefixrack deploy/helm --set shared.enabeld=true", "enabeld"),
        ("curl http://127.0.0.1:8000/v1/nobody", "404"),
        ("tensorboard --logdri nowhere", "tensorboard: error"),
        ("false; echo on", "the line that failed: false"),
    ],
)
def test_what_would_not_work_fails(reader: Reader, commands: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        reader.shell.run(reader.here(commands))


def test_a_second_server_of_a_block_is_refused(reader: Reader) -> None:
    """A reader would wait for ever where the first one keeps the terminal, and a test until its time is up."""
    reader.shell.run("tensorboard --logdir a\ntensorboard --logdir b")
    with pytest.raises(AssertionError, match="give each server a block of its own"):
        reader.shell.end()


def test_the_nursery_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = "from docs_shell import running_nursery\nwith running_nursery() as path: print(path, flush=True); input()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        path = parent.stdout.readline().strip()
        with socket.socket(socket.AF_UNIX) as nursery:
            nursery.connect(path)
            parent.kill()
            nursery.settimeout(TIMEOUT_S)
            with suppress(ConnectionResetError):  # its end too
                assert nursery.recv(1) == b"", "it sends nothing before it ends"


REASONS = [*UNRUN.values(), *TEXTS.values(), *(other.test for other in ELSEWHERE)]


@pytest.mark.parametrize("reason", sorted(set(REASONS)))
def test_a_reason_names_tests_that_there_are(reason: str) -> None:
    for name in re.findall(r"[\w/*]+\.py", reason):
        assert list((ROOT / "tests").glob(name)), name


def test_every_rule_is_used() -> None:
    """A rule for a command or a text that is no more is taken out."""
    texts = [block.text for page in PAGES for block in blocks_of(page)]
    for name in (*AS_THEY_ARE, *STARTED):
        assert any(re.search(rf"^(?:\w+=\S+ |\$ |.* && )*{name} ", text, re.MULTILINE) for text in texts), name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in UNRUN:
        assert any(re.search(name.replace(" ", ".* "), text) for text in (*texts, makefile)), name
    for beginning in TEXTS:
        assert any(text.startswith(beginning) for text in texts), beginning
