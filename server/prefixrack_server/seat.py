"""A front end's seat: what it has for itself, and what it shares with the other front ends of its server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from prefixrack_server.config import MetricsConfig, ServerConfig
from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.traffic import Traffic


@dataclass(frozen=True)
class Seat:
    """`metrics_dir` is where prometheus_client counts for all front ends together, `quota_file` where quotas are
    counted; None where there is one alone."""

    noticeboard: Noticeboard
    spool_dir: Path
    metrics_dir: Path | None = None
    traffic: Traffic = field(default_factory=lambda: Traffic.alone(MetricsConfig()))
    quota_file: Path | None = None

    @classmethod
    def alone(cls, config: ServerConfig) -> Seat:
        return cls(Noticeboard.alone(), config.registry.spool_dir, traffic=Traffic.alone(config.metrics))
