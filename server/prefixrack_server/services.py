"""The long-lived things of one app, built by `create_app` and handed to the routes. Process life, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.config import ServerConfig
from prefixrack_server.messages import Engine

if TYPE_CHECKING:
    from prefixrack_server.auth import Gate
    from prefixrack_server.dispatch import Dispatcher
    from prefixrack_server.keeper import Keeper
    from prefixrack_server.metrics import Metrics
    from prefixrack_server.oidc import TokenVerifier
    from prefixrack_server.predict import Predictor
    from prefixrack_server.quotas import QuotaMeter
    from prefixrack_server.registry.registry import Registry
    from prefixrack_server.rollout_traffic import RolloutTraffic
    from prefixrack_server.sources import Sources
    from prefixrack_server.uploads import Uploads


class Phase:
    """Where the process is in its life; only ever moves on."""

    def __init__(self) -> None:
        self.is_started = False
        self.is_draining = False

    def drain(self) -> None:
        """From now on the server reports not ready; requests are still answered."""
        self.is_draining = True


@dataclass(frozen=True)
class Services:
    config: ServerConfig
    spec: BackboneSpec
    registry: Registry
    engine: Engine
    gate: Gate
    verifier: TokenVerifier | None
    dispatcher: Dispatcher
    predictor: Predictor
    quotas: QuotaMeter
    keeper: Keeper
    uploads: Uploads
    sources: Sources
    metrics: Metrics
    rollouts: RolloutTraffic
    phase: Phase = field(default_factory=Phase)


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services
