"""The churn: callers, uploads, replacements and deletions at once, every answer checked.

The app is the real one, with a tiny backbone and room on the device for a quarter of the adapters.

Each adapter version's solo answers are known before it is uploaded. An answer must equal those of the version that it
names; where nothing was changed meanwhile, it must name the version that was last acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from prefixrack import AsyncClient, NotFoundError, UnprocessableEntityError
from prefixrack.types import AnyOutput, FanOutResult, PredictResponse
from prefixrack_adapters.backbone import Backbone
from prefixrack_server.messages import EngineStats
from rack import Rack, running_rack
from specimens import PROBES, Specimen, assert_distinct, is_close, make_specimens
from tiny import write_backbone

WORKING_SET_PER_BUDGET = 4

WRITE_SHARE = 0.4  # of turns, as long as writes are not ahead of the run
FAN_OUT_SHARE = 0.1
LEAVE_SHARE = 0.05
PINNED_SHARE = 0.3


@dataclass(frozen=True)
class ChurnPlan:
    """The run is over when `duration_s` have passed, `min_answers` were checked and all versions were uploaded.

    Uploads are spread evenly over it. `timeout_s` only ends a run that hangs.
    """

    num_clients: int = 16
    num_adapters: int = 50
    num_versions: int = 100
    min_answers: int = 400
    duration_s: float = 0.0
    timeout_s: float = 300.0
    seed: int = 0


@dataclass
class Tally:
    num_answers: int = 0
    num_not_found: int = 0
    num_left: int = 0
    num_uploads: int = 0
    num_replacements: int = 0
    num_deletions: int = 0


@dataclass
class Shelf:
    """What must be on the server under one name. `turn` is odd while a change is on its way."""

    name: str
    versions: dict[int, Specimen] = field(default_factory=dict)
    turn: int = 0
    has_writer: bool = False

    def at(self, number: int | None) -> Specimen | None:
        """The version under this number; under the bare name, the latest."""
        return self.versions.get(max(self.versions, default=0) if number is None else number)


@dataclass(frozen=True)
class Expectation:
    """What a call that starts now must get, provided that the shelf is quiet until its end."""

    shelf: Shelf
    turn: int
    specimen: Specimen | None

    @classmethod
    def of(cls, shelf: Shelf, number: int | None = None) -> Expectation:
        return cls(shelf, shelf.turn, shelf.at(number))

    @property
    def is_quiet(self) -> bool:
        return self.turn % 2 == 0 and self.turn == self.shelf.turn

    def check_not_found(self) -> None:
        assert not self.is_quiet or self.specimen is None, f"{self.shelf.name} was not found, but it is there"

    def check_digest(self, digest: str) -> None:
        if self.is_quiet:
            expected = None if self.specimen is None else self.specimen.digest
            assert digest == expected, f"{self.shelf.name} answered as {digest}, the last acknowledged is {expected}"


class Churn:
    """One run. `clients` are the callers; each is reader and writer in turn."""

    def __init__(
        self,
        plan: ChurnPlan,
        clients: Sequence[AsyncClient],
        specimens: Sequence[Specimen],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.tally = Tally()
        self.shelves = [Shelf(f"adapter-{index}") for index in range(plan.num_adapters)]
        self._clients = clients
        self._pool = list(reversed(specimens))
        self._specimen_of = {specimen.digest: specimen for specimen in specimens}
        self._digest_of: dict[tuple[str, int], str] = {}
        self._num_to_spread = len(specimens) - plan.num_adapters
        self._clock = clock
        self._started_at = clock()

    async def run(self) -> Tally:
        async with asyncio.timeout(self.plan.timeout_s):
            await self._fill()
            self._started_at = self._clock()
            async with asyncio.TaskGroup() as group:
                for index, client in enumerate(self._clients):
                    group.create_task(self._live(client, Random(f"{self.plan.seed} {index}")))
        return self.tally

    async def check_all(self) -> None:
        """Ask every version that is left for its answer, by its number."""
        for shelf in self.shelves:
            for number in shelf.versions:
                await self._read(self._clients[0], shelf, number, range(len(PROBES)))

    async def _fill(self) -> None:
        async with asyncio.TaskGroup() as group:
            for index, shelf in enumerate(self.shelves):
                group.create_task(self._upload(self._clients[index % len(self._clients)], shelf))

    async def _live(self, client: AsyncClient, random: Random) -> None:
        while self._progress() < 1 or self._pool:
            shelf = random.choice(self.shelves)
            if self._is_write_due() and not shelf.has_writer and random.random() < WRITE_SHARE:
                await self._write(client, random, shelf)
            elif (draw := random.random()) < LEAVE_SHARE:
                await self._leave(client, random, shelf)
            elif draw < LEAVE_SHARE + FAN_OUT_SHARE:
                await self._fan_out(client, random)
            else:
                await self._read(client, shelf, _some_number(random, shelf), _some_probes(random))

    def _progress(self) -> float:
        """From 0 to 1 and beyond, by the slower of time and answers."""
        by_answers = self.tally.num_answers / self.plan.min_answers
        if not self.plan.duration_s:
            return by_answers
        return min(by_answers, (self._clock() - self._started_at) / self.plan.duration_s)

    def _is_write_due(self) -> bool:
        num_due = self._num_to_spread * min(1.0, self._progress())
        return bool(self._pool) and self._num_to_spread - len(self._pool) <= num_due

    async def _write(self, client: AsyncClient, random: Random, shelf: Shelf) -> None:
        """Change a shelf, and see that the change holds for the next call."""
        shelf.has_writer = True
        draw = random.random()
        if not shelf.versions or draw < 0.7:
            await self._upload(client, shelf)
        elif draw < 0.9:
            await self._delete_version(client, shelf, random.choice(list(shelf.versions)))
        else:
            await self._delete_adapter(client, shelf)
        await self._read(client, shelf, None, _some_probes(random))
        shelf.has_writer = False

    async def _upload(self, client: AsyncClient, shelf: Shelf) -> None:
        specimen = self._pool.pop()
        shelf.turn += 1
        info = await client.push(shelf.name, specimen.folder)
        assert info.is_new, f"{shelf.name}: {specimen.digest} was taken for known"
        self._note(shelf.name, info.version, info.digest)
        self.tally.num_uploads += 1
        self.tally.num_replacements += bool(shelf.versions)
        shelf.versions[info.version] = specimen
        shelf.turn += 1

    async def _delete_version(self, client: AsyncClient, shelf: Shelf, number: int) -> None:
        shelf.turn += 1
        await client.delete_version(shelf.name, number)
        self.tally.num_deletions += 1
        del shelf.versions[number]
        shelf.turn += 1

    async def _delete_adapter(self, client: AsyncClient, shelf: Shelf) -> None:
        shelf.turn += 1
        await client.delete_adapter(shelf.name)
        self.tally.num_deletions += 1
        shelf.versions.clear()
        shelf.turn += 1

    async def _read(self, client: AsyncClient, shelf: Shelf, number: int | None, probes: Sequence[int]) -> None:
        expectation = Expectation.of(shelf, number)
        ref = shelf.name if number is None else f"{shelf.name}@{number}"
        try:
            response = await client.predict(ref, [PROBES[probe] for probe in probes], logits=True)
        except NotFoundError:
            expectation.check_not_found()
            self.tally.num_not_found += 1
        else:
            self._check(response, expectation, probes)

    async def _fan_out(self, client: AsyncClient, random: Random) -> None:
        probes = _some_probes(random)
        expectations = {shelf.name: Expectation.of(shelf) for shelf in random.sample(self.shelves, 3)}
        results: list[FanOutResult] = []
        try:
            response = await client.fan_out(list(expectations), [PROBES[probe] for probe in probes], logits=True)
            results = [result for result in response.results.values() if isinstance(result, FanOutResult)]
        except UnprocessableEntityError as error:
            if error.code != "all_inputs_failed":  # the code for: none of them is there
                raise
        for result in results:
            self._check(result, expectations.pop(result.adapter.name), probes)
        for expectation in expectations.values():
            expectation.check_not_found()
            self.tally.num_not_found += 1

    async def _leave(self, client: AsyncClient, random: Random, shelf: Shelf) -> None:
        """Ask, and go before the answer is there, or just after."""
        call = asyncio.create_task(client.predict(shelf.name, list(PROBES)))
        for _ in range(random.randrange(60)):
            await asyncio.sleep(0)
        call.cancel()
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError | NotFoundError):
            raise outcome
        self.tally.num_left += isinstance(outcome, asyncio.CancelledError)

    def _check(self, result: PredictResponse | FanOutResult, expectation: Expectation, probes: Sequence[int]) -> None:
        adapter = result.adapter
        assert adapter.name == expectation.shelf.name, f"asked {expectation.shelf.name}, {adapter.name} answered"
        self._note(adapter.name, adapter.version, adapter.digest)
        expectation.check_digest(adapter.digest)
        specimen = self._specimen_of[adapter.digest]
        assert result.task == specimen.task, f"{adapter} answered as {result.task}, it is for {specimen.task}"
        for probe, output in zip(probes, result.outputs, strict=True):
            self._check_output(output, specimen, probe)

    def _check_output(self, output: AnyOutput, specimen: Specimen, probe: int) -> None:
        seen, expected = output.model_dump(), specimen.answers[probe]
        assert is_close(seen, expected), f"{specimen.digest} said {seen} to {PROBES[probe]!r}, alone it says {expected}"
        self.tally.num_answers += 1

    def _note(self, name: str, number: int, digest: str) -> None:
        """A number stands for one digest for ever."""
        known = self._digest_of.setdefault((name, number), digest)
        assert known == digest, f"{name}@{number} was {known}, now it is {digest}"


def _some_number(random: Random, shelf: Shelf) -> int | None:
    if not shelf.versions or random.random() >= PINNED_SHARE:
        return None
    return random.choice(list(shelf.versions))


def _some_probes(random: Random) -> list[int]:
    return random.sample(range(len(PROBES)), random.randint(1, 3))


async def run_churn(plan: ChurnPlan, folder: Path) -> tuple[Tally, EngineStats]:
    """A whole run in an empty folder: versions made and compared, the app started, all of it checked."""
    backbone = Backbone.load(write_backbone(folder / "backbone"), device="cpu")
    specimens = make_specimens(backbone, folder / "bundles", plan.num_versions, plan.seed)
    assert_distinct(specimens)
    working_set_bytes = sum(specimen.size_bytes for specimen in specimens[: plan.num_adapters])
    budget_bytes = working_set_bytes // WORKING_SET_PER_BUDGET
    async with running_rack(backbone, folder / "state", resident_bytes=budget_bytes) as rack, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(rack.client()) for _ in range(plan.num_clients)]
        churn = Churn(plan, clients, specimens)
        tally = await churn.run()
        assert_nothing_left(rack)
        await rack.registry.sweep_orphans(min_age_s=0)
        await churn.check_all()
        return tally, rack.engine.stats()


def assert_nothing_left(rack: Rack) -> None:
    """Every row was answered or forgotten, those of callers who left too."""
    dispatcher, stats = rack.services.dispatcher, rack.engine.stats()
    left = (dispatcher.num_rows, dispatcher.num_tokens, stats.num_queued_rows, stats.num_queued_tokens)
    assert left == (0, 0, 0, 0), f"rows and tokens left in dispatcher and engine: {left}"
