"""A tiny backbone's tokenizer, bundles for it, a FakeEngine, and the app around them: the HTTP suite needs no torch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic as really_now  # whatever a test does with time
from typing import Any

import httpx2
import numpy as np
import pytest
import structlog
from fastapi import FastAPI
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from postgres_process import new_database
from prefixrack_adapters.bundle import digest_of, write_bundle
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer
from prefixrack_server.app import create_app
from prefixrack_server.config import ServerConfig
from prefixrack_server.messages import BundleRef, EngineStats, ResidencyState, RowDone, RowFailure, RowWork
from prefixrack_server.registry.blobs import BundleSource, LocalBlobStore
from prefixrack_server.registry.registry import Registry
from prefixrack_server.upload import SpooledBundle
from real_parts import running_postgres

PATIENCE_S = 180.0
TOOK_MS = (0.001, 0.002)  # to wait and to compute: less than any request lasts
MIDDLE_OF_A_MINUTE = 60 * 30_000_000 + 30.0
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "hello", "world", "good", "bad"]
PIECES = [*(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), ".", ",", "?"]
VOCABULARY = {word: index for index, word in enumerate([*WORDS, *PIECES])}
SPEC = BackboneSpec(
    model_id="tiny",
    architecture="bert",
    fingerprint="f" * 64,
    num_layers=2,
    num_kv_heads=2,
    head_dim=4,
    hidden_size=8,
    vocab_size=len(VOCABULARY),
    num_segments=2,
    max_positions=512,
    base_position=0,
    embedding_size=8,
)
DEFAULT_LABELS = {
    "text-classification": ["good", "bad"],
    "token-classification": ["O", "B-X", "I-X"],
    "question-answering": [],
    "multiple-choice": [],
    "text-embedding": [],
}


class FakeEngine:
    """`messages.Engine` without a backbone: logits from a hash of (digest, token ids), computed in a thread."""

    def __init__(self, source: BundleSource) -> None:
        self._source = source
        self._queue: queue.Queue[list[RowWork] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run)
        self.go = threading.Event()  # clear it to hold all answers back
        self.go.set()
        self.failures: dict[str, RowFailure] = {}  # by digest; "" for every row
        self.drifting = False  # rows that are not exact get other logits
        self.heartbeat = time.monotonic
        self.submitted: list[list[RowWork]] = []
        self.cancelled: list[int] = []
        self.kept: dict[str, bool] = {}
        self.forgotten: list[str] = []
        self.num_rows = 0

    def start(self, deliver: Callable[[Sequence[RowDone]], None]) -> None:
        self._deliver = deliver
        self._thread.start()

    def submit(self, work: Sequence[RowWork]) -> None:
        self.submitted.append(list(work))
        self._queue.put(list(work))

    def cancel(self, row_ids: Sequence[int]) -> None:
        self.cancelled.extend(row_ids)

    def keep_resident(self, bundle: BundleRef, keep: bool) -> None:
        self.kept[bundle.digest] = keep

    def forget(self, digest: str) -> None:
        self.forgotten.append(digest)

    async def residency(self, digest: str) -> ResidencyState:
        return "resident" if self.kept.get(digest) else "absent"

    def stats(self) -> EngineStats:
        alive = self._thread.is_alive()
        return EngineStats(alive, self.heartbeat(), 0, 0, 0, 0, 0, len(self.submitted), self.num_rows, *(0,) * 7)

    def hurry(self) -> None:
        self.go.set()

    def stop(self) -> None:
        self.go.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            self.go.wait()
            self.num_rows += len(work)
            self._deliver([self._answer(row) for row in work if row.row_id not in self.cancelled])

    def _answer(self, work: RowWork) -> RowDone:
        assert work.bundle is not None
        failure = self.failures.get(work.bundle.digest) or self.failures.get("")
        if failure is not None:
            return RowDone(work.row_id, failure=failure)
        manifest = json.loads(self._source.fetch(work.bundle)[0])
        head = manifest["head"]
        num_outputs = head["layers"][-1]["num_outputs"] if head["layers"] else SPEC.hidden_size
        shape = (len(work.row), num_outputs) if head["gather"] == "every_token" else (num_outputs,)
        logits = fake_logits(work.bundle.digest, work.row.token_ids, shape)
        return RowDone(work.row_id, -logits if self.drifting and not work.is_exact else logits, None, *TOOK_MS)


def fake_logits(digest: str, token_ids: Sequence[int], shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    seed = hashlib.sha256(f"{digest} {list(token_ids)}".encode()).digest()
    return np.random.default_rng(list(seed)).normal(size=shape).astype(np.float32)


@dataclass
class Bundle:
    """A bundle in a folder, with what it takes to send it."""

    folder: Path
    name: str
    manifest: dict[str, Any]
    tensors: dict[str, Any]

    @property
    def manifest_bytes(self) -> bytes:
        return (self.folder / "adapter.json").read_bytes()

    @property
    def tensors_bytes(self) -> bytes:
        return (self.folder / "adapter.safetensors").read_bytes()

    @property
    def digest(self) -> str:
        return digest_of(*(hashlib.sha256(part).hexdigest() for part in (self.manifest_bytes, self.tensors_bytes)))

    @property
    def spooled(self) -> SpooledBundle:
        """As an upload that came whole."""
        manifest, path = self.manifest_bytes, self.folder / "adapter.safetensors"
        first, second = (hashlib.sha256(part).hexdigest() for part in (manifest, self.tensors_bytes))
        size_bytes, card = path.stat().st_size, (self.folder / "README.md").read_text(encoding="utf-8")
        return SpooledBundle(manifest, path, first, second, size_bytes, digest_of(first, second), card)

    def files(self, **changed: bytes) -> dict[str, tuple[str, bytes]]:
        """`files=` of an upload."""
        card = (self.folder / "README.md").read_bytes()
        parts = {"manifest": self.manifest_bytes, "tensors": self.tensors_bytes, "card": card} | changed
        return {field: (field, content) for field, content in parts.items()}


def manifest_document(name: str, task: str = "text-classification", **changes: Any) -> dict[str, Any]:
    labels = changes.pop("labels", DEFAULT_LABELS[task])
    num_outputs = {"question-answering": 2, "multiple-choice": 1}.get(task, len(labels))
    layers = [] if task == "text-embedding" else [{"num_outputs": num_outputs}]
    per_token = task in ("token-classification", "question-answering")
    return {
        "name": name,
        "task": task,
        "labels": labels,
        "backbone": {"model_id": "tiny", "architecture": "bert", "fingerprint": SPEC.fingerprint},
        "prefix": {"prefix_len": 3, "num_layers": 2, "num_kv_heads": 2, "head_dim": 4},
        "head": {
            "gather": "every_token" if per_token else "first_token",
            "layers": layers,
        },
        "tokenization": {"max_len": 64, "stride": 8, "overlong": "window" if per_token else "error"},
        "provenance": {"tool": "test", "tool_version": "1", "method": "random"},
        **changes,
    }


def make_bundle(folder: Path, name: str, task: str = "text-classification", seed: int = 0, **changes: Any) -> Bundle:
    document = manifest_document(name, task, **changes)
    manifest = Manifest.model_validate(document)
    random = np.random.default_rng(seed)
    shapes = manifest.tensor_shapes(SPEC.hidden_size)
    tensors = {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    target = folder / f"{name}-{task}-{seed}"
    write_bundle(target, manifest, tensors, card=f"# {name}\n")
    return Bundle(target, name, document, tensors)


@pytest.fixture
def bundles(tmp_path: Path) -> Callable[..., Bundle]:
    """Make a bundle: `bundles("intent", task=…, seed=…)`."""

    def make(name: str, task: str = "text-classification", seed: int = 0, **changes: Any) -> Bundle:
        return make_bundle(tmp_path / "bundles", name, task, seed, **changes)

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BackboneTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]", max_input_chars_per_word=40))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", VOCABULARY["[SEP]"]), ("[CLS]", VOCABULARY["[CLS]"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    return BackboneTokenizer.load(folder)


@dataclass
class Server:
    """The running app, and what stands behind it."""

    app: FastAPI
    engine: FakeEngine
    registry: Registry
    client: httpx2.AsyncClient
    config: ServerConfig
    secrets: dict[str, str] = field(default_factory=dict)

    async def upload(self, bundle: Bundle, name: str | None = None, **headers: str) -> httpx2.Response:
        url = f"/admin/v1/adapters/{name or bundle.name}/versions"
        return await self.client.post(url, files=bundle.files(), headers=headers)

    async def predict(self, ref: str, inputs: Any, **parameters: Any) -> httpx2.Response:
        return await self.client.post(f"/v1/{ref}/predict", json={"inputs": inputs, "parameters": parameters})

    async def names(self) -> list[tuple[str, int, int]]:
        """The registry's state, to see that a refused request left it alone."""
        page = (await self.client.get("/v1/adapters")).json()["data"]
        return [(entry["name"], entry["version"], entry["num_versions"]) for entry in page]


ServerFactory = Callable[..., Any]


@pytest.fixture
def serving(tmp_path: Path, tokenizer: BackboneTokenizer) -> ServerFactory:
    """Start a server: `async with serving(limits={…}) as server`."""

    @asynccontextmanager
    async def start(**sections: dict[str, Any]) -> AsyncIterator[Server]:
        state_dir = tmp_path / "state"
        given: dict[str, Any] = {"http": {"auth": "none"}, "registry": {"state_dir": state_dir}}
        config = ServerConfig(**{key: given.get(key, {}) | sections.get(key, {}) for key in {*given, *sections}})
        blobs = LocalBlobStore(config.registry.blobs_dir)
        registry = await Registry.open(config.registry.sqlalchemy_url, blobs)
        engine = FakeEngine(BundleSource(blobs))
        app = create_app(config, registry, engine, SPEC, tokenizer)
        try:
            transport = httpx2.ASGITransport(app=app)
            async with (
                app.router.lifespan_context(app),
                httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
            ):
                app.state.services.quotas._own._clock = lambda: MIDDLE_OF_A_MINUTE  # it may not turn during a test
                yield Server(app, engine, registry, client, config)
        finally:
            await registry.close()

    return start


@pytest.fixture
async def server(serving: ServerFactory) -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL where databases may be made; skips where there is none."""
    given = os.environ.get("PREFIXRACK_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with running_postgres() as server:
        yield server.url()


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[str]:
    """The URL of a new database."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until something that another thread or task changes is so; the bound is for what never comes."""

    async def wait(condition: Callable[[], bool]) -> None:
        give_up_at = really_now() + PATIENCE_S
        while not condition():
            assert really_now() < give_up_at, f"it did not come about in {PATIENCE_S:.0f} s"
            await asyncio.sleep(0.001)

    return wait


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass at once, for limits that must not depend on how fast this machine is.

    What asks `time` from now on is told so, the event loop for its timers too; not what took a clock of its own before.
    """
    passed_s = 0.0

    def go_on(seconds: float) -> None:
        nonlocal passed_s
        passed_s += seconds

    for name in ("monotonic", "perf_counter"):
        clock = getattr(time, name)
        monkeypatch.setattr(time, name, lambda clock=clock: clock() + passed_s)
    return go_on


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    """structlog's unconfigured default prints coloured tracebacks, which takes a second each."""
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.stdlib.LoggerFactory()
    )


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings of this server."""
    for name in [name for name in os.environ if name.startswith("PREFIXRACK_")]:
        monkeypatch.delenv(name)
    return monkeypatch
