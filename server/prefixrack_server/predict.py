"""Predicting: inputs of a bound request to outputs, through tokeniser, dispatcher and task. Knows no HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import structlog

from prefixrack import errors
from prefixrack.types import AdapterRef, Output, Parameters, output_json
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.tasks import AnyTask, Prepared
from prefixrack_server.accuracy_gate import AccuracyGate
from prefixrack_server.dispatch import BoundRow, Dispatcher, IsGone, Payer
from prefixrack_server.envelope import BULK_WAY, Envelope, adapter_json, error_json, to_json
from prefixrack_server.holds import Holds
from prefixrack_server.messages import BundleRef, RowDone, RowFailure
from prefixrack_server.quotas import Allowance
from prefixrack_server.registry.principal import Principal
from prefixrack_server.registry.registry import Version
from prefixrack_server.row_faults import fault_of, logits_of
from prefixrack_server.tokenise import Tokeniser, is_big
from prefixrack_server.traffic import Traffic
from prefixrack_server.usage import UsageCounter

# Lower runs first: somebody waits for a request, a bulk body can wait, a probe of an upload waits for everything.
REQUEST_PRIORITY = 0
BULK_PRIORITY = 10
PROBE_PRIORITY = 1000
PROBE_TIMEOUT_S = 60.0

Outcome = Output | errors.Fault

log = structlog.stdlib.get_logger("prefixrack.predict")


class Call(NamedTuple):
    """Who waits for a request, who pays for it, and how long it may take: `deadline` in `time.monotonic()` seconds."""

    allowance: Allowance
    request_id: str
    deadline: float | None
    is_gone: IsGone | None
    started: float

    @property
    def principal(self) -> Principal:
        return self.allowance.principal

    @property
    def payer(self) -> Payer:
        return Payer(self.principal.tenant, self.principal.weight)


class Usage(NamedTuple):
    """What is computed for a request; `truncated` counts inputs."""

    tokens: int
    rows: int
    truncated: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one request as one adapter version sees them."""

    version: Version
    task: AnyTask
    parameters: Parameters
    prepared: list[Prepared | errors.InputFault]
    usage: Usage = field(init=False)  # added up once: quotas, metrics, records and the answer ask for it

    def __post_init__(self) -> None:
        ready = list(self.ready())
        usage = Usage(
            sum(item.num_tokens for item in ready),
            sum(len(item.rows) for item in ready),
            sum(item.truncated for item in ready),
        )
        object.__setattr__(self, "usage", usage)

    def rows(self) -> Iterator[BoundRow]:
        bundle = self.version.bundle
        return (BoundRow(row, bundle) for item in self.ready() for row in item.rows)

    def ready(self) -> Iterator[Prepared]:
        return (item for item in self.prepared if not isinstance(item, errors.InputFault))

    @property
    def num_tokens(self) -> int:
        return self.usage.tokens

    def split(self) -> Iterator[Batch]:
        """One batch for each input."""
        return (replace(self, prepared=[item]) for item in self.prepared)

    def finish(self, answers: Iterator[RowDone]) -> list[Outcome]:
        """Outputs in the order of the inputs; takes its rows from `answers` and leaves the rest."""
        return [self._outcome(item, answers) for item in self.prepared]

    def _outcome(self, item: Prepared | errors.InputFault, answers: Iterator[RowDone]) -> Outcome:
        if isinstance(item, errors.InputFault):
            return item
        done = [next(answers) for _ in item.rows]
        failure = next((answer.failure for answer in done if answer.failure is not None), None)
        if failure is not None:
            return fault_of(failure)
        try:
            return self.task.finish(item, logits_of(done), self.parameters)
        except errors.Fault as fault:
            return fault
        except Exception as error:  # whatever it was, the other inputs and adapters must still get theirs
            log.exception("an output could not be made", adapter=self.version.ref, digest=self.version.digest)
            return errors.InternalFault(
                f"the output could not be made ({type(error).__name__}): the server's log says more"
            )


class Predictor:
    """Lives as long as the process."""

    def __init__(
        self,
        tokeniser: Tokeniser,
        dispatcher: Dispatcher,
        holds: Holds,
        max_tokens: int,
        traffic: Traffic,
        usage: UsageCounter,
        accuracy: AccuracyGate | None = None,
    ) -> None:
        """`accuracy` is there where weights are in int8."""
        self.tokeniser = tokeniser
        self.dispatcher = dispatcher
        self.holds = holds
        self.traffic = traffic
        self.usage = usage
        self._max_tokens = max_tokens
        self._accuracy = accuracy

    def task(self, version: Version) -> AnyTask:
        return self.tokeniser.task(version.digest, version.manifest)

    async def predict(self, version: Version, envelope: Envelope, call: Call) -> dict[str, Any]:
        """The body of the answer. Raises every fault of the request as a whole."""
        try:
            return await self._predict(version, envelope, call)
        except Exception as error:
            self.traffic.failed(version, error)
            raise

    async def _predict(self, version: Version, envelope: Envelope, call: Call) -> dict[str, Any]:
        big = is_big(len(envelope.inputs), envelope.num_bytes)
        batch = await self.prepare(version, envelope.inputs, envelope.parameters, big)
        self.check_tokens(batch.num_tokens)
        await call.allowance.take_tokens(batch.num_tokens)
        prepared_at = time.perf_counter()
        spans = self.dispatcher.spans
        spans.worked("tokenise", call.started)
        answers = await self.compute(list(batch.rows()), call)
        computed_at = time.perf_counter()
        self.note_usage(batch, call.principal)
        outcomes = await self.tokeniser.work(big, lambda: batch.finish(iter(answers)))
        spans.worked("output", computed_at)
        check_outcomes(outcomes)
        self._count([batch], call)
        return {
            "id": call.request_id,
            **result_json(batch, outcomes),
            "usage": usage_json([batch]),
            "timings_ms": timings(call, prepared_at, answers),
        }

    async def fan_out(
        self, versions: Mapping[str, Version | errors.Fault], envelope: Envelope, call: Call
    ) -> dict[str, Any]:
        """`versions` maps a reference as sent to its version, or to why there is none. All rows go in together."""
        big = is_big(len(envelope.inputs) * len(versions), envelope.num_bytes)
        batches, faults = await self._prepare_all(versions, envelope, big)
        rows = [row for batch in batches.values() for row in batch.rows()]
        spans = self.dispatcher.spans
        spans.worked("tokenise", call.started)
        try:
            await call.allowance.take_tokens(sum(batch.num_tokens for batch in batches.values()))
            answers = iter(await self.compute(rows, call))
        except Exception as error:
            for batch in batches.values():
                self.traffic.failed(batch.version, error)
            raise
        computed_at = time.perf_counter()
        for batch in batches.values():
            self.note_usage(batch, call.principal)
        outcomes: dict[str, list[Outcome]] = {}
        for key, batch in batches.items():
            outcomes[key] = await self.tokeniser.work(big, lambda batch=batch: batch.finish(answers))  # type: ignore[misc]
        spans.worked("output", computed_at)
        check_results(faults, outcomes)
        self._count(batches.values(), call)
        results = {key: error_json(fault) for key, fault in faults.items()}
        results |= {key: result_json(batch, outcomes[key]) for key, batch in batches.items()}
        return {"id": call.request_id, "results": results, "usage": usage_json(list(batches.values()))}

    def _count(self, batches: Iterable[Batch], call: Call) -> None:
        seconds = time.perf_counter() - call.started
        for batch in batches:
            num_tokens, num_rows, _ = batch.usage
            self.traffic.answered(batch.version, num_rows, num_tokens, seconds)

    async def _prepare_all(
        self, versions: Mapping[str, Version | errors.Fault], envelope: Envelope, big: bool
    ) -> tuple[dict[str, Batch], dict[str, errors.Fault]]:
        """The tokens are counted after every adapter: what is over the limit is refused before the next one is made."""
        batches: dict[str, Batch] = {}
        faults: dict[str, errors.Fault] = {}
        num_tokens = 0
        for ref, version in versions.items():
            if isinstance(version, errors.Fault):
                faults[ref] = version
                continue
            key = result_key(ref, version)
            if key in batches:
                continue  # two references to one version
            try:
                batches[key] = await self.prepare(version, envelope.inputs, envelope.parameters, big)
            except (errors.RequestFault, errors.AccuracyTooLow) as fault:
                faults[key] = fault
                continue
            num_tokens += batches[key].num_tokens
            self.check_tokens(num_tokens)
        return batches, faults

    async def prepare(self, version: Version, inputs: Sequence[Any], parameters: Parameters, big: bool) -> Batch:
        task = self.task(version)
        if self._accuracy is not None:
            await self._accuracy.admit(task, version.manifest, version.bundle, Payer(""), REQUEST_PRIORITY)
        prepared = await self.tokeniser.prepare(task, inputs, parameters, big)
        return Batch(version, task, parameters, prepared)

    async def compute(self, rows: Sequence[BoundRow], call: Call, priority: int = REQUEST_PRIORITY) -> list[RowDone]:
        with self.holds.hold(bound.bundle for bound in rows if bound.bundle is not None):
            ticket = self.dispatcher.submit(rows, call.payer, call.deadline, priority)
            return await self.dispatcher.wait(ticket, call.is_gone)

    def note_usage(self, batch: Batch, principal: Principal, num_requests: int = 1) -> None:
        """Of the caller's tenant, whoever owns the adapter: it is the one that had it computed."""
        version = batch.version
        name = version.name if version.tenant == principal.tenant else f"{version.tenant}:{version.name}"
        num_tokens, num_rows, _ = batch.usage
        if num_rows:
            self.usage.add(principal.tenant, name, num_requests, num_rows, num_tokens)

    async def probe(self, manifest: Manifest, bundle: BundleRef, payer: Payer) -> None:
        """Run the adapter once on its example. Raises ProbeFailed where that gives no finite logits or no output, and
        AccuracyTooLow where int8 weights change its answers."""
        task = self.tokeniser.task(bundle.digest, manifest)
        item = task.prepare_many([task.example()], Parameters())[0]
        if isinstance(item, errors.InputFault):
            raise errors.ProbeFailed(f"the manifest's `example` is not usable ({item.detail}): give one that is")
        rows = [BoundRow(row, bundle) for row in item.rows]
        ticket = self.dispatcher.submit(rows, payer, time.monotonic() + PROBE_TIMEOUT_S, PROBE_PRIORITY)
        try:
            with self.holds.hold([bundle]):
                answers = await self.dispatcher.wait(ticket)
            for answer in answers:
                if answer.failure is not None:
                    raise probe_fault(answer.failure)
        except errors.DeadlineExceeded:
            raise errors.DeadlineExceeded(
                f"the adapter's example was not computed within {PROBE_TIMEOUT_S:.0f} s, the server is too busy: "
                "upload it again later"
            ) from None
        check_finish(task, item, answers)
        if self._accuracy is not None:
            await self._accuracy.admit(task, manifest, bundle, payer, PROBE_PRIORITY)

    def check_tokens(self, num_tokens: int) -> None:
        if num_tokens > self._max_tokens:
            raise errors.TooManyTokens(
                f"the request makes {num_tokens} tokens, allowed are {self._max_tokens}: send fewer or shorter inputs, "
                f"or {BULK_WAY}"
            )


def check_finish(task: AnyTask, item: Prepared, answers: Iterable[RowDone]) -> None:
    """Raises ProbeFailed where the logits of the example make no output that can be sent."""
    try:
        to_json(output_json(task.finish(item, logits_of(answers), Parameters())))
    except Exception as error:
        log.exception("the output of an adapter's example could not be made")
        raise errors.ProbeFailed(
            f"the adapter's logits make no output for its example ({type(error).__name__}: {str(error)[:200]}): "
            "check that head, labels and decoding of the manifest belong to its task"
        ) from error


def probe_fault(failure: RowFailure) -> errors.Fault:
    fault = fault_of(failure)
    if isinstance(fault, errors.BundleFault):
        return fault
    return errors.ProbeFailed(
        f"the adapter fails on its example ({failure.code}: {failure.detail}): finite logits are needed"
    )


def check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Refuse a request of which nothing came out: with the server's fault if there is one, else with all of them."""
    faults = [outcome for outcome in outcomes if isinstance(outcome, errors.Fault)]
    if len(faults) < len(outcomes):
        return
    for fault in faults:
        if not isinstance(fault, errors.InputFault):
            is_named = isinstance(fault, errors.ServiceFault | errors.BundleFault | errors.RegistryFault)
            raise fault if is_named else errors.InternalFault(fault.detail)
    only = f"the input failed: {faults[0].detail}" if len(faults) == 1 else f"all {len(faults)} inputs failed"
    raise errors.AllInputsFailed(only, [error_json(fault)["error"] for fault in faults])


def check_results(faults: Mapping[str, errors.Fault], outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """`check_outcomes` over adapters: refuse a fan-out where no adapter gave an output."""
    every: list[tuple[str, Outcome]] = [*faults.items()]
    every += [(key, outcome) for key, of_adapter in outcomes.items() for outcome in of_adapter]
    failed = [(key, outcome) for key, outcome in every if isinstance(outcome, errors.Fault)]
    if len(failed) < len(every):
        return
    for _, fault in failed:
        if isinstance(fault, errors.ServiceFault):
            raise fault
    raise errors.AllInputsFailed(
        f"none of the {len(faults) + len(outcomes)} adapters gave an output: see `errors`",
        [{"adapter": key, **error_json(fault)["error"]} for key, fault in failed],
    )


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    return error_json(outcome) if isinstance(outcome, errors.Fault) else output_json(outcome)


def result_json(batch: Batch, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    version = batch.version
    return {
        "adapter": adapter_json(AdapterRef(name=version.name, version=version.number, digest=version.digest)),
        "task": version.manifest.task,
        "outputs": [outcome_json(outcome) for outcome in outcomes],
    }


def result_key(ref: str, version: Version) -> str:
    """What a fan-out's result stands under: the reference as sent, with the number of its version."""
    owner, delimiter, _ = ref.rpartition(":")
    return f"{owner}{delimiter}{version.name}@{version.number}"


def usage_json(batches: Sequence[Batch]) -> dict[str, int]:
    totals = [batch.usage for batch in batches]
    tokens, rows, truncated = (sum(column) for column in zip(*totals, strict=True))
    return {"tokens": tokens, "rows": rows, "truncated": truncated}


def timings(call: Call, prepared_at: float, answers: Sequence[RowDone]) -> dict[str, float]:
    """Milliseconds; queue and compute are those of the slowest row."""
    return {
        "tokenize": round((prepared_at - call.started) * 1000, 3),
        "queue": round(max((answer.queue_ms for answer in answers), default=0.0), 3),
        "compute": round(max((answer.compute_ms for answer in answers), default=0.0), 3),
        "total": round((time.perf_counter() - call.started) * 1000, 3),
    }
