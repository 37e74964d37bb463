"""The app: long-lived things are built here once and handed to the routes. Knows no torch: the engine is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer
from prefixrack_server.accuracy_gate import AccuracyBounds, AccuracyGate
from prefixrack_server.auth import DEFAULT_TENANT, Gate
from prefixrack_server.compat import openai_embeddings, openai_models
from prefixrack_server.compat.huggingface import routes as huggingface
from prefixrack_server.compat.open_inference import routes as open_inference
from prefixrack_server.config import BackboneConfig, ServerConfig
from prefixrack_server.console_page import install_console
from prefixrack_server.declared import POLL_S, Follower
from prefixrack_server.dispatch import Dispatcher
from prefixrack_server.docs_page import install_docs_page
from prefixrack_server.documentation import install_openapi
from prefixrack_server.holds import Holds
from prefixrack_server.housekeeping import every, keep_house, keep_keys
from prefixrack_server.keeper import Keeper
from prefixrack_server.messages import Engine
from prefixrack_server.metrics import Metrics, facts_of
from prefixrack_server.oidc import TokenVerifier
from prefixrack_server.predict import Predictor
from prefixrack_server.problems import install_problem_handlers
from prefixrack_server.quota_storage import SharedStorage
from prefixrack_server.quotas import QuotaMeter, fleet_storage
from prefixrack_server.registry.registry import Registry
from prefixrack_server.request_context import RequestContext
from prefixrack_server.rollout_traffic import RolloutTraffic
from prefixrack_server.routes import adapters, admin, health, keys, predict, records, tenants, whoami
from prefixrack_server.routes.shortcut import Application
from prefixrack_server.scoreboard import TURN_S
from prefixrack_server.seat import Seat
from prefixrack_server.services import Services
from prefixrack_server.sources import Sources
from prefixrack_server.spans import telemetry
from prefixrack_server.tokenise import Tokeniser
from prefixrack_server.upload import Spool
from prefixrack_server.uploads import Uploads
from prefixrack_server.usage import UsageCounter

log = structlog.stdlib.get_logger("prefixrack.app")

# Routes of other protocols.
COMPATIBLE = (huggingface, openai_models, openai_embeddings, open_inference)
ROUTES = (predict, health, adapters, whoami, admin, keys, tenants, records, *COMPATIBLE)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    config: ServerConfig,
    registry: Registry,
    engine: Engine,
    spec: BackboneSpec,
    tokenizer: BackboneTokenizer,
    seat: Seat | None = None,
) -> FastAPI:
    """The server as an ASGI app. It starts and stops `engine`; `registry` is open and stays its caller's.

    Without a `seat` this is the server's only front end.
    """
    services = build_services(config, registry, engine, spec, tokenizer, seat or Seat.alone(config))
    app = routed_app(needs_key=config.http.auth == "keys", lifespan=_lifespan(services))
    app.state.services = services
    install_docs_page(app)
    install_console(app)
    app.shorten(_middleware(services), lambda: services.dispatcher.spans.is_on)
    return app


def routed_app(needs_key: bool, lifespan: Lifespan | None = None) -> Application:
    """The routes, their faults and what OpenAPI says about them, with nothing behind."""
    app = Application(
        title="Prefixrack",
        summary="Thousands of small prompt adapters on one frozen backbone",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=telemetry(),
    )
    for routes in ROUTES:
        app.include_router(routes.router)
    install_problem_handlers(app)
    install_openapi(app, needs_key)
    return app


def build_services(
    config: ServerConfig,
    registry: Registry,
    engine: Engine,
    spec: BackboneSpec,
    tokenizer: BackboneTokenizer,
    seat: Seat,
) -> Services:
    limits, verifier = config.limits, TokenVerifier(config.oidc) if config.oidc.issuer else None
    dispatcher = Dispatcher(engine, limits.max_held_rows, limits.max_held_tokens, seat.noticeboard)
    usage = UsageCounter(registry)
    holds = Holds()
    accuracy = accuracy_gate(config.backbone, dispatcher, holds)
    predictor = Predictor(
        Tokeniser(spec, tokenizer), dispatcher, holds, limits.max_tokens, seat.traffic, usage, accuracy
    )
    metrics = Metrics(engine, seat.noticeboard, seat.traffic, facts_of(config, spec), seat.metrics_dir)
    spool = Spool(seat.spool_dir, limits.max_bundle_bytes)
    return Services(
        config=config,
        spec=spec,
        registry=registry,
        engine=engine,
        gate=Gate(registry, config.http.auth, config.http.cors_origins, verifier),
        verifier=verifier,
        dispatcher=dispatcher,
        predictor=predictor,
        quotas=QuotaMeter(SharedStorage(seat.quota_file), fleet_storage(config.quotas)),
        keeper=Keeper(registry, engine),
        uploads=Uploads(registry, predictor, spool, spec, config.backbone.serving_dtype),
        sources=Sources(config.sources, seat.spool_dir, limits.max_bundle_bytes, config.backbone.path),
        metrics=metrics,
        rollouts=RolloutTraffic(predictor, seat.traffic),
    )


def accuracy_gate(config: BackboneConfig, dispatcher: Dispatcher, holds: Holds) -> AccuracyGate | None:
    """None where the weights are those of the backbone's files, but for their dtype."""
    bounds = AccuracyBounds(config.min_agreement, config.max_score_drift)
    return AccuracyGate(dispatcher, holds, bounds) if config.dtype == "int8" else None


def _lifespan(services: Services) -> Lifespan:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.dispatcher.spans.start()
        services.dispatcher.start()
        try:
            await _prepare(services)
            follower = follower_of(services)
            if follower is not None:
                await follower.begin()
            predictor = services.predictor
            async with (
                running(keep_house(services.registry, services.keeper, predictor.holds, predictor.usage)),
                running(keep_keys(services.verifier)),
                running(every(TURN_S, predictor.traffic.turn)),
                running(every(TURN_S, lambda: services.rollouts.turn(services.registry))),
                running(follow(follower)),
            ):
                services.phase.is_started = True
                yield
        finally:
            services.phase.drain()
            await services.rollouts.stop()
            await services.dispatcher.stop()
            await services.quotas.close()
            await _flush(services.predictor.usage)

    return lifespan


def follower_of(services: Services) -> Follower | None:
    """What makes the registry hold what a file declares, where one does."""
    path = services.config.registry.declared
    if path is None:
        return None
    return Follower(path, DEFAULT_TENANT, services.registry, services.uploads, services.sources, services.keeper)


async def follow(follower: Follower | None) -> None:
    if follower is not None:
        await every(POLL_S, follower.turn)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless work beside the block; at its end the work is cancelled, and has ended when this returns."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _flush(usage: UsageCounter) -> None:
    """The last thing of a process. A database that is away must not keep it from ending in order."""
    try:
        await usage.flush()
    except Exception:
        log.exception("what tenants used since the last time could not be written down")


async def _prepare(services: Services) -> None:
    folder = services.config.registry.adapters_dir
    if folder is not None:
        await services.uploads.register_folder(DEFAULT_TENANT, folder)
    await services.uploads.register_sources(DEFAULT_TENANT, services.sources, services.config.sources.adapters)
    await services.keeper.sync()


def _middleware(services: Services) -> list[Middleware]:
    """Outermost first."""
    layers = [Middleware(RequestContext, observe=services.metrics.observe)]
    origins = services.config.http.cors_origins
    if origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Retry-After", "ETag", "RateLimit", "RateLimit-Policy"],
            )
        )
    return layers
