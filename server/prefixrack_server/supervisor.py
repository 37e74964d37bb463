"""The supervisor: starts the engine's process and the front ends, watches them, hands signals on. Loads no torch.

It has what belongs to the server once: the state folder, the port, migrations, the first admin key, the sweep.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.admin_key import show_admin_key
from prefixrack_server.app import running
from prefixrack_server.child_process import ChildEnded, ChildProcess
from prefixrack_server.config import ServerConfig, resolve
from prefixrack_server.engine_process import EngineJob
from prefixrack_server.front_end import BEAT_S, FrontEndJob
from prefixrack_server.housekeeping import sweep
from prefixrack_server.http_server import Address, reserved
from prefixrack_server.logs import log_config
from prefixrack_server.noticeboard import Noticeboard, make_noticeboard
from prefixrack_server.quota_storage import make_quota_file
from prefixrack_server.registry.blob_stores import open_blobs
from prefixrack_server.registry.registry import Registry
from prefixrack_server.traffic import make_traffic
from prefixrack_server.upload import Spool

OnReady = Callable[[], None]

SOCKET: Final = "engine.sock"
NOTICEBOARD: Final = "noticeboard"
METRICS: Final = "metrics"
QUOTAS: Final = "quotas"
# Beyond what a front end allows itself to finish; then it hangs.
END_SLACK_S: Final = 10.0
MAX_MISSED_BEATS: Final = 15

log = structlog.stdlib.get_logger("prefixrack.supervisor")


def supervise(config: ServerConfig, backbone: Path, on_ready: OnReady | None, new_admin_key: bool) -> None:
    """Returns after a signal has ended the server in order. Raises ConfigError, or ChildEnded when a part of it died.

    The folder of the engine's socket is made for this user alone: who can connect can compute.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefixrack-")))
        addresses = stack.enter_context(reserved(config.http.host, config.http.port))
        supervisor = Supervisor(config, backbone, folder, addresses)
        asyncio.run(supervisor.run(on_ready, new_admin_key))


class Supervisor:
    """Lives as long as the server. A front end that dies or hangs is replaced; when the engine dies, the server ends:
    its front ends answer what they have with `not_ready`, and whoever started the server starts it again."""

    def __init__(self, config: ServerConfig, backbone: Path, folder: Path, addresses: Sequence[Address]) -> None:
        self._config = config
        self._backbone = backbone
        self._folder = folder
        self._addresses = tuple(addresses)
        self._lines = range(config.http.workers or 1)
        self._engine: ChildProcess | None = None
        self._front_ends: dict[int, ChildProcess] = {}
        self._signals: list[signal.Signals] = []
        self._failure: ChildEnded | None = None

    async def run(self, on_ready: OnReady | None, new_admin_key: bool) -> None:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._end, sig)
        registry = await self._prepare()
        try:
            await show_admin_key(self._config, registry, new_admin_key)
            async with running(sweep(registry, self._config.registry.sweep_s)):
                await self._serve(on_ready)
        finally:
            await self._kill_all()
            await registry.close()
        if self._failure is not None:
            raise self._failure

    async def _prepare(self) -> Registry:
        """What has to be there before the first child starts."""
        config = self._config
        Spool(config.registry.spool_dir, config.limits.max_bundle_bytes)  # removes what is left of an earlier life
        make_noticeboard(self._folder / NOTICEBOARD, len(self._lines))
        (self._folder / METRICS).mkdir()
        make_traffic(self._folder / METRICS, config.metrics, len(self._lines))
        make_quota_file(self._folder / QUOTAS)
        blobs = open_blobs(config.registry)
        return await Registry.open(config.registry.sqlalchemy_url, blobs, grace_s=config.grace_s)

    async def _serve(self, on_ready: OnReady | None) -> None:
        try:
            engine = await self._start_engine()
            # The first one registers the folder of first adapters: nobody is answered before that is done.
            await self._start_front_end(0, self._config)
        except ChildEnded as failure:
            self._fail(failure)
            return
        if on_ready is not None:
            on_ready()
        async with running(self._guard(engine)), running(self._kill_silent()):
            await asyncio.gather(*(self._tend(line) for line in self._lines))
        engine.tell(self._signals[-1])  # the front ends needed it to their last
        await engine.ended()

    async def _tend(self, line: int) -> None:
        """Have a front end in this line, and another in its place when it dies, until the server ends."""
        while line in self._front_ends or not self._signals:
            try:
                front_end = self._front_ends.get(line) or await self._start_front_end(line, self._later_config)
            except ChildEnded as failure:  # the next one would fail again
                self._fail(failure)
                return
            exit_code = await front_end.ended()
            del self._front_ends[line]
            if not self._signals:
                log.error("a front end has died: another is started", front_end=str(front_end), exit_code=exit_code)

    async def _guard(self, engine: ChildProcess) -> None:
        exit_code = await engine.ended()
        self._fail(ChildEnded(f"{engine} has ended unexpectedly, with exit code {exit_code}: start the server again"))

    async def _kill_silent(self) -> None:
        """A front end that hangs would go on getting its share of connections. Counted, not timed: a machine that was
        paused must not look like one whose front ends hang."""
        board = Noticeboard.open(self._folder / NOTICEBOARD, 0)
        seen, num_missed = dict.fromkeys(self._lines, 0), dict.fromkeys(self._lines, 0)
        while True:
            await asyncio.sleep(BEAT_S)
            for line, front_end in self._front_ends.items():
                num_beats = board.num_beats(line)
                is_silent = front_end.is_ready and num_beats == seen[line]
                seen[line], num_missed[line] = num_beats, num_missed[line] + 1 if is_silent else 0
                if num_missed[line] >= MAX_MISSED_BEATS:
                    log.error("a front end hangs: it is killed", front_end=str(front_end))
                    front_end.kill()

    def _fail(self, failure: ChildEnded) -> None:
        """End the server with this as the reason, where nobody has told it to end."""
        if not self._signals:
            self._failure = failure
            self._end(signal.SIGTERM)
            self._end(signal.SIGTERM)  # the second ends the time of draining: nothing can be computed any more

    def _end(self, sig: signal.Signals) -> None:
        """Hand a signal on to the front ends; the engine stays until they have ended."""
        if not self._signals:
            asyncio.get_running_loop().call_later(self._longest_end_s, self._kill)
        self._signals.append(sig)
        for front_end in self._front_ends.values():
            front_end.tell(sig)
        if self._engine is not None and not self._engine.is_ready:
            self._engine.kill()

    async def _start_engine(self) -> ChildProcess:
        job = EngineJob(self._config, self._backbone, self._folder / SOCKET)
        self._engine = await ChildProcess.start("engine", job, self._folder, {})
        facts = await self._ready(self._engine)
        self._spec = BackboneSpec(**facts["spec"])
        self._config = resolve(self._config, facts["device"], facts["dtype"], facts["num_threads"])
        log_config(self._config)
        return self._engine

    async def _start_front_end(self, line: int, config: ServerConfig) -> ChildProcess:
        metrics = self._folder / METRICS
        job = FrontEndJob(
            config,
            self._spec,
            self._backbone,
            engine=self._folder / SOCKET,
            noticeboard=self._folder / NOTICEBOARD,
            metrics=metrics,
            quotas=self._folder / QUOTAS,
            addresses=self._addresses,
            line=line,
        )
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        front_end = await ChildProcess.start(f"front end {line}", job, self._folder, environment)
        self._front_ends[line] = front_end
        await self._ready(front_end)
        places = [address[:2] for _, address in self._addresses]
        log.info("a front end takes requests", front_end=str(front_end), addresses=places)
        return front_end

    async def _ready(self, child: ChildProcess) -> dict[str, Any]:
        if self._signals:
            child.kill()  # the server was told to end while this one was being started
        return await child.ready()

    @property
    def _later_config(self) -> ServerConfig:
        """For front ends that start when the folder of first adapters is registered."""
        registry = self._config.registry.model_copy(update={"adapters_dir": None})
        return self._config.model_copy(update={"registry": registry})

    @property
    def _longest_end_s(self) -> float:
        http = self._config.http
        return http.drain_s + http.shutdown_grace_s + self._config.engine.drain_timeout_s + END_SLACK_S

    @property
    def _children(self) -> list[ChildProcess]:
        engine = [] if self._engine is None else [self._engine]
        return [*engine, *self._front_ends.values()]

    def _kill(self) -> None:
        for child in self._children:
            child.kill()

    async def _kill_all(self) -> None:
        """Nobody is left when this returns."""
        self._kill()
        await asyncio.gather(*(child.ended() for child in self._children))
