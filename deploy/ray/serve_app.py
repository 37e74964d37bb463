"""Prefixrack on Ray Serve: replicas of the whole server behind a door that sends an adapter's requests to where it is.

    pip install 'prefixrack[ray]'
    PYTHONPATH=$PWD/deploy/ray serve run serve_app:build num_replicas=4

Settings come from the environment as always (PREFIXRACK_…), of every node. Replicas share their state through
`registry.database_url` and `registry.blobs_url`; `registry.state_dir` has a folder for each. Ray does HTTP, restarts
what dies, and scales; a replica answers what a server of its own would.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import httpx2
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayActorError
from starlette.requests import Request
from starlette.responses import Response

from prefixrack_adapters.embedded import resolve_backbone
from prefixrack_server.admin_key import show_admin_key
from prefixrack_server.admission import QueueLimits
from prefixrack_server.app import create_app
from prefixrack_server.backbone_loading import load_backbone
from prefixrack_server.config import load_config
from prefixrack_server.engine import EngineThread
from prefixrack_server.logs import set_up_logging
from prefixrack_server.registry.blob_stores import open_blobs
from prefixrack_server.registry.blobs import BundleSource
from prefixrack_server.registry.registry import Registry

NUM_TRIES: Final = 3
# Of one replica at once: enough for full packs. Ray queues the others at the door.
MAX_ONGOING: Final = 1024
# How many adapters Ray remembers of a replica; the engine's own budget decides what is on the device.
MAX_ADAPTERS: Final = 1000
# Of an answer: made anew for the caller's connection, by Ray. It echoes the request id too.
NOT_PASSED_ON: Final = frozenset({"content-length", "transfer-encoding", "connection", "x-request-id"})
REPLICA_HEADER: Final = "x-replica"

Headers = list[tuple[str, str]]


class Exchange(NamedTuple):
    """A request on its way to a replica, or an answer on its way back: plain data."""

    method: str
    url: str
    headers: Headers
    body: bytes


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class Options(BaseModel):
    """What `serve run` takes."""

    model_config = ConfigDict(extra="forbid")

    num_replicas: int = 2
    num_cpus: float = 2
    num_gpus: float = 0


@serve.deployment(max_ongoing_requests=MAX_ONGOING, health_check_period_s=5, graceful_shutdown_timeout_s=60)
class Replica:
    """One server: backbone, engine, registry and the application, which is called without a socket."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray awaits it
        config = load_config({})
        self._id = serve.get_replica_context().replica_id.unique_id
        registry_config = config.registry.model_copy(update={"state_dir": config.registry.state_dir / self._id})
        config = config.model_copy(update={"registry": registry_config})
        set_up_logging(config.http.log_level, config.http.log_format)
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request to the application here
        backbone, config = load_backbone(config, resolve_backbone(config.backbone.path))
        self._stack = AsyncExitStack()
        blobs = open_blobs(config.registry)
        registry = await Registry.open(config.registry.sqlalchemy_url, blobs, grace_s=config.grace_s)
        self._stack.push_async_callback(registry.close)
        await show_admin_key(config, registry, False)
        queue_limits = QueueLimits(config.limits.max_queued_rows, config.limits.max_queued_tokens)
        engine = EngineThread(backbone, BundleSource(blobs), config.engine, queue_limits=queue_limits)
        app = create_app(config, registry, engine, backbone.spec, backbone.tokenizer)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx2.ASGITransport(app=app)
        client = httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=None)
        self._client = await self._stack.enter_async_context(client)

    async def answer(self, exchange: Exchange) -> Answer:
        adapter = serve.get_multiplexed_model_id()
        if adapter:
            await self._note(adapter)
        method, url, sent, body = exchange
        response = await self._client.request(method, url, headers=sent, content=body)
        headers = [*response.headers.multi_items(), (REPLICA_HEADER, self._id)]
        return Answer(response.status_code, headers, response.content)

    @serve.multiplexed(max_num_models_per_replica=MAX_ADAPTERS)
    async def _note(self, adapter: str) -> str:
        """Tell Ray that this replica has the adapter. Loading and evicting it is the engine's own."""
        return adapter

    async def check_health(self) -> None:
        """Ray replaces a replica whose engine hangs."""
        response = await self._client.get("/health/live")
        if not response.is_success:
            raise RuntimeError(response.json()["detail"])

    async def __del__(self) -> None:
        await self._stack.aclose()


@serve.deployment(max_ongoing_requests=10 * MAX_ONGOING)
class Door:
    """Sends a prediction to a replica that has its adapter, everything else to any. Bodies pass in one piece, those of
    bulk requests too."""

    def __init__(self, replicas: Any) -> None:
        self._replicas = replicas

    async def __call__(self, request: Request) -> Response:
        exchange = Exchange(request.method, _url_of(request), request.headers.items(), await request.body())
        answer = await self._ask(exchange, adapter_of(request.url.path))
        response = Response(answer.body, answer.status)
        for name, value in answer.headers:
            if name not in NOT_PASSED_ON:
                response.headers.append(name, value)
        return response

    async def _ask(self, exchange: Exchange, adapter: str) -> Answer:
        """What a replica that died did not answer, another one is asked, unless it could be done twice."""
        handle = self._replicas.options(multiplexed_model_id=adapter).answer
        num_tries = NUM_TRIES if is_repeatable(exchange) else 1
        for number in range(1, num_tries + 1):
            try:
                return Answer(*await handle.remote(exchange))
            except RayActorError:
                if number == num_tries:
                    break
        return unavailable()


def _url_of(request: Request) -> str:
    path: str = request.scope["path"]
    query: bytes = request.scope["query_string"]
    return str(httpx2.URL(path=path, query=query or None))


def adapter_of(path: str) -> str:
    """The adapter in the path of a prediction, without version or alias; else nothing, and any replica will do."""
    parts = path.split("/")
    is_prediction = len(parts) == 4 and parts[1] == "v1" and parts[3] == "predict"
    return parts[2].partition("@")[0] if is_prediction else ""


def is_repeatable(exchange: Exchange) -> bool:
    return exchange.method in ("GET", "HEAD") or exchange.url.startswith("/v1/")


def unavailable() -> Answer:
    detail = "the replica that had this request has ended: whether it did it is not known"
    body = f'{{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"{detail}","error":"{detail}"}}'
    return Answer(503, [("content-type", "application/problem+json"), ("retry-after", "1")], body.encode())


def build(arguments: Options | Mapping[str, Any]) -> Any:
    """The application for `serve run` and for a Serve config file, which both give a mapping."""
    options = Options.model_validate(arguments)
    actor = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
    replica: Any = Replica  # what Ray's decorator made of them
    door: Any = Door
    replicas = replica.options(num_replicas=options.num_replicas, ray_actor_options=actor)
    return door.options(ray_actor_options={"num_cpus": 0.1}).bind(replicas.bind())
