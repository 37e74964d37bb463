"""Traffic: what each adapter version, each tenant and each version of a rollout was asked and answered. Bounded: for
metrics, not for bills.

A request adds a microsecond or two here: plain additions to cells, which are read at the scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Final

from starlette.requests import ClientDisconnect

from prefixrack.errors import InputFault, RateLimited, RequestFault
from prefixrack_server.config import MetricsConfig
from prefixrack_server.registry.versions import Version
from prefixrack_server.scoreboard import Scoreboard, make_scoreboard

ADAPTERS: Final = "adapters.board"
TENANTS: Final = "tenants.board"
ROLLOUTS: Final = "rollouts.board"
OUTCOMES: Final = ("ok", "client_error", "server_error")
# Offsets of the cells: requests by outcome, then these; an adapter also has its answers by latency.
OK, CLIENT_ERROR, SERVER_ERROR, ROWS, TOKENS = range(5)
NUM_TENANT_COUNTS: Final = 5
MICROSECONDS: Final = 5
FIRST_LATENCY: Final = 6
LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds
NUM_ADAPTER_COUNTS: Final = FIRST_LATENCY + len(LATENCIES) + 1
# Versions of rollouts that are counted each for itself, and what of each: requests by outcome, outputs of a shadow by
# whether they agree, answers by latency.
MAX_ROLLOUT_VERSIONS: Final = 300
AGREEMENTS: Final = ("same", "different", "failed", "skipped")
FIRST_AGREEMENT: Final = 3
ROLLOUT_MICROSECONDS: Final = FIRST_AGREEMENT + len(AGREEMENTS)
FIRST_ROLLOUT_LATENCY: Final = ROLLOUT_MICROSECONDS + 1
NUM_ROLLOUT_COUNTS: Final = FIRST_ROLLOUT_LATENCY + len(LATENCIES) + 1
CALLERS_FAULTS: Final = (RequestFault, InputFault, RateLimited)


class Traffic:
    """Process life. `adapters`, `tenants` and `rollouts` are this front end's view of the server's boards."""

    def __init__(self, adapters: Scoreboard, tenants: Scoreboard, rollouts: Scoreboard) -> None:
        self.adapters = adapters
        self.tenants = tenants
        self.rollouts = rollouts

    @classmethod
    def alone(cls, config: MetricsConfig) -> Traffic:
        return cls(
            Scoreboard.alone(config.max_adapters, NUM_ADAPTER_COUNTS),
            Scoreboard.alone(config.max_tenants, NUM_TENANT_COUNTS),
            Scoreboard.alone(MAX_ROLLOUT_VERSIONS, NUM_ROLLOUT_COUNTS),
        )

    @classmethod
    def open(cls, folder: Path, config: MetricsConfig, line: int) -> Traffic:
        return cls(
            Scoreboard.open(folder / ADAPTERS, config.max_adapters, NUM_ADAPTER_COUNTS, line),
            Scoreboard.open(folder / TENANTS, config.max_tenants, NUM_TENANT_COUNTS, line),
            Scoreboard.open(folder / ROLLOUTS, MAX_ROLLOUT_VERSIONS, NUM_ROLLOUT_COUNTS, line),
        )

    def answered(self, version: Version, num_rows: int, num_tokens: int, seconds: float | None) -> None:
        """A request, or a line of a bulk body, got its outputs. `seconds` None: nobody waited for it."""
        place = self._add(version, OK, num_rows, num_tokens)
        if seconds is not None:
            cells = self.adapters.cells
            cells[place + MICROSECONDS] += int(seconds * 1e6)
            cells[place + FIRST_LATENCY + bisect_left(LATENCIES, seconds)] += 1

    def failed(self, version: Version, error: Exception) -> None:
        """A request, or a line, got an error instead; that its caller has left is none."""
        if not isinstance(error, ClientDisconnect):
            self._add(version, outcome_of(error), 0, 0)

    async def turn(self) -> None:
        """To be called every `scoreboard.TURN_S`."""
        self.adapters.turn()
        self.tenants.turn()
        self.rollouts.turn()

    def _add(self, version: Version, outcome: int, num_rows: int, num_tokens: int) -> int:
        tenants, adapters = self.tenants, self.adapters
        heat = num_tokens + 1
        place = tenants.place((version.tenant,), heat)
        tenants.cells[place + outcome] += 1
        tenants.cells[place + ROWS] += num_rows
        tenants.cells[place + TOKENS] += num_tokens
        place = adapters.place((version.tenant, version.name, str(version.number)), heat)
        adapters.cells[place + outcome] += 1
        adapters.cells[place + ROWS] += num_rows
        adapters.cells[place + TOKENS] += num_tokens
        return place


def outcome_of(error: BaseException) -> int:
    return CLIENT_ERROR if isinstance(error, CALLERS_FAULTS) else SERVER_ERROR


def make_traffic(folder: Path, config: MetricsConfig, num_lines: int) -> None:
    make_scoreboard(folder / ADAPTERS, config.max_adapters, NUM_ADAPTER_COUNTS, num_lines)
    make_scoreboard(folder / TENANTS, config.max_tenants, NUM_TENANT_COUNTS, num_lines)
    make_scoreboard(folder / ROLLOUTS, MAX_ROLLOUT_VERSIONS, NUM_ROLLOUT_COUNTS, num_lines)
