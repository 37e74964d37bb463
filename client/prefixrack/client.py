"""The synchronous client: sends what `calls` describes, waits as `retries` decides. Knows no route and no rule."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import httpx2

from prefixrack import bulk, bundles, calls, typed
from prefixrack.calls import Call, Page
from prefixrack.connection import Connection
from prefixrack.errors import APIStatusError, NotFoundError, ServiceUnavailableError, UnprocessableEntityError
from prefixrack.file_map import FileMap, FileProgress, FileSummary
from prefixrack.health import Health
from prefixrack.progress_bar import bar_or
from prefixrack.raw import RawClient
from prefixrack.requests import ApiRequest, name_of
from prefixrack.responses import status_error
from prefixrack.retries import RetryPolicy, Tries, connection_error
from prefixrack.settings import Settings, find_api_key, find_base_url
from prefixrack.stream import LineStream
from prefixrack.typed import Classified, Many, TypedTask
from prefixrack.types import (
    AdapterDetail,
    AdapterSummary,
    AliasInfo,
    AnyOutput,
    AuditLine,
    BulkLine,
    ChoiceOutput,
    EmbeddingOutput,
    FailedOutput,
    FanOutResponse,
    GatesInfo,
    KeyInfo,
    PredictResponse,
    QuestionAnsweringOutput,
    ResidencyInfo,
    TenantInfo,
    TokenClassificationOutput,
    UsageLine,
    VersionDetail,
    VersionInfo,
    WhoAmI,
)

T = TypeVar("T")


class Client:
    """Talks to one server; may be shared by threads. Close it, or use it as a context manager.

    `base_url` and `api_key` default to `PREFIXRACK_BASE_URL` and `PREFIXRACK_API_KEY`. An `http_client` that is
    handed in stays its owner's to close. Methods raise `APIError` and its subclasses (`prefixrack.errors`).
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        deadline_s: float | None = None,
        max_retries: int = 2,
        transport: httpx2.BaseTransport | None = None,
        http_client: httpx2.Client | None = None,
        retry_policy: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = Settings(
            find_base_url(base_url), find_api_key(api_key), timeout_s, connect_timeout_s, deadline_s, max_retries
        )
        self._connection = Connection(settings, retry_policy if retry_policy is not None else RetryPolicy())
        self._is_owner = http_client is None
        self._http = http_client if http_client is not None else httpx2.Client(transport=transport)
        self._sleep = sleep
        self._observe: Callable[[httpx2.Response], None] | None = None

    def with_options(
        self, *, timeout_s: float | None = None, deadline_s: float | None = None, max_retries: int | None = None
    ) -> Self:
        """This client with other patience; connections and retry budget are shared, and closed with this client."""
        other = copy(self)
        options = {"timeout_s": timeout_s, "deadline_s": deadline_s, "max_retries": max_retries}
        other._connection = self._connection.with_options(options)
        other._is_owner = False
        return other

    @property
    def with_raw_response(self) -> RawClient:
        """The same methods, each giving its value with the HTTP response: `.value`, `.response`, `.request_id`."""
        return RawClient(self)

    def observed(self, observe: Callable[[httpx2.Response], None]) -> Self:
        """This client, telling `observe` of each response; connections are shared, and closed with this client."""
        other = copy(self)
        other._observe = observe
        other._is_owner = False
        return other

    @property
    def base_url(self) -> str:
        return self._connection.settings.base_url

    def close(self) -> None:
        if self._is_owner:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(
        self, adapter: str, inputs: Any, *, routing_key: str | None = None, **parameters: Any
    ) -> PredictResponse:
        """Outputs for one input or a list of them. `adapter` is `name`, `name@alias` or `name@7`.

        Where the alias has a canary, callers with the same `routing_key` get the same version.
        """
        return self._run(calls.predict(adapter, inputs, parameters, routing_key))

    def fan_out(self, adapters: Sequence[str], inputs: Any, **parameters: Any) -> FanOutResponse:
        """The same inputs through several adapters at once."""
        return self._run(calls.fan_out(adapters, inputs, parameters))

    @overload
    def classify(self, adapter: str, inputs: Many, **parameters: Any) -> list[Classified | FailedOutput]: ...
    @overload
    def classify(self, adapter: str, inputs: Any, **parameters: Any) -> Classified: ...
    def classify(self, adapter: str, inputs: Any, **parameters: Any) -> Any:
        """Labels of a text or a pair of texts; for a list, a list in which failed inputs are `FailedOutput`."""
        return self._typed(typed.CLASSIFICATION, adapter, inputs, parameters)

    @overload
    def ner(self, adapter: str, inputs: Many, **parameters: Any) -> list[TokenClassificationOutput | FailedOutput]: ...
    @overload
    def ner(self, adapter: str, inputs: Any, **parameters: Any) -> TokenClassificationOutput: ...
    def ner(self, adapter: str, inputs: Any, **parameters: Any) -> Any:
        """Labelled spans of a text or of `{"tokens": […]}`."""
        return self._typed(typed.TOKEN_CLASSIFICATION, adapter, inputs, parameters)

    @overload
    def answer(self, adapter: str, inputs: Many, **parameters: Any) -> list[QuestionAnsweringOutput | FailedOutput]: ...
    @overload
    def answer(self, adapter: str, inputs: Any, **parameters: Any) -> QuestionAnsweringOutput: ...
    def answer(self, adapter: str, inputs: Any, **parameters: Any) -> Any:
        """The answer to `{"question", "context"}`; `.answer` is None when the context holds none."""
        return self._typed(typed.QUESTION_ANSWERING, adapter, inputs, parameters)

    @overload
    def choose(self, adapter: str, inputs: Many, **parameters: Any) -> list[ChoiceOutput | FailedOutput]: ...
    @overload
    def choose(self, adapter: str, inputs: Any, **parameters: Any) -> ChoiceOutput: ...
    def choose(self, adapter: str, inputs: Any, **parameters: Any) -> Any:
        """The best of `{"text", "choices": […]}`, by its index."""
        return self._typed(typed.MULTIPLE_CHOICE, adapter, inputs, parameters)

    @overload
    def embed(self, adapter: str, inputs: Many, **parameters: Any) -> list[EmbeddingOutput | FailedOutput]: ...
    @overload
    def embed(self, adapter: str, inputs: Any, **parameters: Any) -> EmbeddingOutput: ...
    def embed(self, adapter: str, inputs: Any, **parameters: Any) -> Any:
        """The vector of a text or of `{"title", "text"}`."""
        return self._typed(typed.TEXT_EMBEDDING, adapter, inputs, parameters)

    def predict_many(
        self, adapter: str, inputs: Iterable[Any], *, concurrency: int = 4, batch_size: int = 32, **parameters: Any
    ) -> Iterator[AnyOutput]:
        """One output per input, in order; an input's own fault is a `FailedOutput` in its place.

        Reads at most `concurrency` batches ahead of what was taken out, so the iterable may be endless. A batch that
        is too large for the server is sent in halves. Any other error ends the iteration.
        """
        bulk.check_sizes(concurrency, batch_size)
        return self._predict_many(adapter, inputs, concurrency, batch_size, parameters)

    def map_file(
        self,
        adapter: str,
        source: str | Path,
        target: str | Path,
        *,
        columns: Sequence[str] | None = None,
        resume: bool = True,
        progress: FileProgress | bool | None = None,
        concurrency: int = 4,
        batch_size: int = 32,
        **parameters: Any,
    ) -> FileSummary:
        """Answers to a file of inputs, in order, with bounded memory. Each name ends in `.jsonl` or `.csv`.

        A line of JSON Lines is an input, or `{"id", "inputs"}`. In csv `columns` make the input: one column a text,
        several an object; by default those of text, text_pair, question, context and title that are there. A faulty
        line fails alone. The target appears when it is whole. What an interrupted run answered is kept beside it, and
        the same call goes on there, with the version it began with; ValueError where that was other work.
        A bar is shown on a terminal, or as `progress` says: True, False, or a function of bytes done and in all.
        """
        bulk.check_sizes(concurrency, batch_size)
        with (
            bar_or(progress, Path(source).name) as shown,
            FileMap(source, target, adapter, parameters, columns=columns, resume=resume, progress=shown) as job,
        ):
            bound = job.start(job.resumed_adapter or self._bound(adapter))
            for output in self._predict_many(bound, job.inputs(), concurrency, batch_size, parameters):
                job.take(output)
            return job.finish()

    def predict_stream(self, adapter: str, inputs: Iterable[Any], **parameters: Any) -> Iterator[BulkLine]:
        """One exchange of JSON Lines for inputs without end: sent as they are taken, answers read as they come.

        An input may be a `prefixrack.lines.Line`, whose id comes back. Answers begin once all is sent, as HTTP/1.1
        clients do it; the server keeps them meanwhile. Nothing is sent again: where the connection breaks, an
        APIConnectionError says so. `predict_many` retries, and is the better choice but for very many small inputs.
        """
        return self._stream(LineStream(adapter, parameters), inputs)

    def list_adapters(
        self, *, search: str | None = None, tenant: str | None = None, page_size: int | None = None
    ) -> Iterator[AdapterSummary]:
        """All adapters that the key may use; pages are fetched as they are needed. `tenant` is for admins of all."""
        return self._pages(lambda cursor: calls.list_adapters(page_size, search, cursor, tenant))

    def get_adapter(self, ref: str) -> AdapterDetail:
        return self._run(calls.get_adapter(ref))

    def list_versions(self, name: str, *, page_size: int | None = None) -> Iterator[VersionInfo]:
        return self._pages(lambda cursor: calls.list_versions(name, page_size, cursor))

    def get_version(self, name: str, version: int) -> VersionDetail:
        """A version with its manifest and its card, without the tensors."""
        return self._run(calls.get_version(name, version))

    def push(
        self,
        name: str,
        bundle_folder: str | Path,
        *,
        progress: bundles.Progress | None = None,
        idempotency_key: str | None = None,
    ) -> VersionInfo:
        """Upload a bundle as a new version; the same files again give the existing one (`is_new` False).

        `progress(num_bytes_sent, num_bytes)` starts over when an attempt is repeated.
        """
        key = idempotency_key if idempotency_key is not None else uuid.uuid4().hex
        return self._run(calls.push(name, Path(bundle_folder), progress, key))

    def push_source(
        self,
        name: str,
        source: str,
        *,
        task: str | None = None,
        labels: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> VersionInfo:
        """Have the server fetch a bundle from a URI (hf://, s3://, file:// …) that its settings allow.

        `task` and `labels` are what a PEFT adapter does not say itself.
        """
        key = idempotency_key if idempotency_key is not None else uuid.uuid4().hex
        return self._run(calls.push_source(name, source, task, labels, key))

    def pull(self, ref: str, folder: str | Path, *, overwrite: bool = False) -> AdapterDetail:
        """Download a version's bundle into `folder`. Raises FileExistsError when a bundle is there already.

        What comes is not trusted: UnsafeArchive, BundleTooLarge or MalformedBundle say what was wrong with it.
        """
        target = Path(folder)
        bundles.check_target(target, overwrite=overwrite)
        detail = self.get_adapter(ref)
        with bundles.Spool() as spool:
            self._send(calls.download(name_of(ref), detail.version).request, spool)
            bundles.unpack(spool.file, target, detail.digest)
        return detail

    def get_alias(self, name: str, alias: str) -> AliasInfo:
        return self._run(calls.get_alias(name, alias))

    def set_alias(self, name: str, alias: str, version: int, *, if_match: str | None = None) -> AliasInfo:
        """Create an alias, or with `if_match` (an `etag`, or "*" for whatever it is now) move it."""
        return self._run(calls.set_alias(name, alias, version, if_match))

    def promote(
        self, name: str, version: int, *, alias: str = calls.PRODUCTION, require: str | Sequence[str] = ()
    ) -> AliasInfo:
        """Move the alias to this version, unless somebody else moves it meanwhile (PreconditionFailedError).

        `require` names numbers that the version's uploader must claim in its manifest: "f1>=0.9", or for one data set
        "wnut17:span_f1>=0.5". Where one is missing or too low the error's code is `requirement_not_met`.
        """
        try:
            current = self.get_alias(name, alias)
        except NotFoundError as error:
            if error.code != "alias_not_found":
                raise
            return self._run(calls.promotion(name, alias, version, None, require))
        return self._run(calls.promotion(name, alias, version, current, require))

    def rollback(self, name: str, *, alias: str = calls.PRODUCTION) -> AliasInfo:
        """Take the alias' canary and shadow away; where it has no canary, return to the version before. One request."""
        return self._run(calls.rollback(name, alias))

    def start_canary(self, name: str, version: int, share: float, *, alias: str = calls.PRODUCTION) -> AliasInfo:
        """Let this version answer a share (0 to 1) of the alias' requests; a shadow stays.

        Callers with a routing key (`X-Routing-Key`, or `routing_key` in the body) get the same version each time.
        `promote` or `rollback` ends it.
        """
        current = self.get_alias(name, alias)
        return self._run(calls.rollout(name, current, (version, share), current.shadow_version))

    def start_shadow(self, name: str, version: int, *, alias: str = calls.PRODUCTION) -> AliasInfo:
        """Have this version compute what the alias is asked, and compare; its answers go nowhere. A canary stays."""
        current = self.get_alias(name, alias)
        canary = None if current.canary is None else (current.canary.version, current.canary.share)
        return self._run(calls.rollout(name, current, canary, version))

    def get_gates(self, name: str, *, alias: str = calls.PRODUCTION) -> GatesInfo:
        """What every version must claim that is to answer under this alias."""
        return self._run(calls.get_gates(name, alias))

    def set_gates(self, name: str, require: Sequence[str], *, alias: str = calls.PRODUCTION) -> GatesInfo:
        """Protect an alias by requirements such as "f1>=0.9"; by none, no longer."""
        return self._run(calls.set_gates(name, alias, require))

    def delete_alias(self, name: str, alias: str) -> None:
        self._run(calls.delete_alias(name, alias))

    def delete_version(self, name: str, version: int) -> None:
        self._run(calls.delete_version(name, version))

    def delete_adapter(self, name: str) -> None:
        self._run(calls.delete_adapter(name))

    def get_residency(self, name: str, version: int) -> ResidencyInfo:
        return self._run(calls.get_residency(name, version))

    def set_residency(self, name: str, version: int, keep_resident: bool) -> ResidencyInfo:
        """Hold the version on the device, or let it be evicted again."""
        return self._run(calls.set_residency(name, version, keep_resident))

    def whoami(self) -> WhoAmI:
        """Whom the server takes this client for: tenant, key, scopes, limits."""
        return self._run(calls.who_am_i())

    def create_key(
        self,
        scopes: Sequence[str],
        *,
        expires_at: str | None = None,
        adapters: Sequence[str] = (),
        tenant: str | None = None,
        name: str | None = None,
    ) -> KeyInfo:
        """A new API key; its `secret` is in this answer and never again.

        `adapters` are patterns of the names that it is limited to; `tenant` is for admins of all tenants; `name` says
        to people which key it is.
        """
        return self._run(calls.create_key(scopes, expires_at, adapters, tenant, name))

    def list_keys(self, *, tenant: str | None = None, page_size: int | None = None) -> Iterator[KeyInfo]:
        return self._pages(lambda cursor: calls.list_keys(page_size, cursor, tenant))

    def rotate_key(self, key_id: str, *, overlap_s: float | None = None, tenant: str | None = None) -> KeyInfo:
        """A second key that may do what this one may; its `secret` is in this answer and never again.

        Both hold until `revoke_key` ends the first, or by itself after `overlap_s` seconds.
        """
        return self._run(calls.rotate_key(key_id, overlap_s, tenant))

    def revoke_key(self, key_id: str, *, tenant: str | None = None) -> None:
        self._run(calls.revoke_key(key_id, tenant))

    def create_tenant(
        self,
        name: str,
        *,
        weight: float | None = None,
        quotas: Mapping[str, int | None] | None = None,
        adapters: Sequence[str] | None = None,
    ) -> TenantInfo:
        """A new tenant. `quotas` are fields of `prefixrack.types.Quotas`, `adapters` patterns of names."""
        settings = {"weight": weight, "quotas": quotas, "adapters": adapters}
        return self._run(calls.create_tenant(name, settings))

    def list_tenants(self, *, page_size: int | None = None) -> Iterator[TenantInfo]:
        return self._pages(lambda cursor: calls.list_tenants(page_size, cursor))

    def get_tenant(self, name: str) -> TenantInfo:
        """With what it has stored."""
        return self._run(calls.get_tenant(name))

    def update_tenant(
        self,
        name: str,
        *,
        weight: float | None = None,
        quotas: Mapping[str, int | None] | None = None,
        adapters: Sequence[str] | None = None,
        disabled: bool | None = None,
    ) -> TenantInfo:
        """Change what is given; a quota of None has no limit. A disabled tenant's keys are refused."""
        settings = {"weight": weight, "quotas": quotas, "adapters": adapters, "disabled": disabled}
        return self._run(calls.update_tenant(name, settings))

    def list_audit(
        self,
        *,
        tenant: str | None = None,
        action: str | None = None,
        adapter: str | None = None,
        page_size: int | None = None,
    ) -> Iterator[AuditLine]:
        """Who changed what, newest first; `action` is one, or how several begin ("key."), `adapter` a name."""
        return self._pages(lambda cursor: calls.list_audit(page_size, cursor, tenant, action, adapter))

    def list_usage(
        self,
        *,
        tenant: str | None = None,
        since: str | None = None,
        until: str | None = None,
        page_size: int | None = None,
    ) -> Iterator[UsageLine]:
        """What was computed, by day (UTC) and adapter, from the day `since` to `until`, both included."""
        return self._pages(lambda cursor: calls.list_usage(page_size, cursor, tenant, since, until))

    def health(self) -> Health:
        """Asks once. Raises APIConnectionError when nothing answers."""
        self._run(calls.live())
        try:
            self._run(calls.ready())
        except ServiceUnavailableError as error:
            return Health(live=True, ready=False, reason=str(error))
        return Health(live=True, ready=True)

    def metrics(self) -> str:
        """What the server counts, in Prometheus' text format (`prefixrack.exposition` reads it)."""
        return self._run(calls.metrics())

    def _typed(self, task: TypedTask[T], adapter: str, inputs: Any, parameters: dict[str, Any]) -> Any:
        try:
            response = self.predict(adapter, inputs, **parameters)
        except UnprocessableEntityError as error:
            return task.unwrap_refusal(error, inputs)
        return task.unwrap(response, inputs)

    def _predict_many(
        self, adapter: str, inputs: Iterable[Any], concurrency: int, batch_size: int, parameters: dict[str, Any]
    ) -> Iterator[AnyOutput]:
        pending: deque[Future[list[AnyOutput]]] = deque()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="prefixrack-predict") as pool:
            try:
                for batch in bulk.batches(inputs, batch_size):
                    pending.append(pool.submit(self._predict_batch, adapter, batch, parameters))
                    if len(pending) >= concurrency:
                        yield from pending.popleft().result()
                while pending:
                    yield from pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _predict_batch(self, adapter: str, batch: bulk.Batch, parameters: dict[str, Any]) -> list[AnyOutput]:
        try:
            return self.predict(adapter, batch, **parameters).outputs
        except APIStatusError as error:
            recovery = bulk.recover(error, batch)
        outputs: list[AnyOutput] = list(recovery.outputs)
        for smaller in recovery.smaller:
            outputs += self._predict_batch(adapter, smaller, parameters)
        return outputs

    def _bound(self, ref: str) -> str:
        """The version that a name or an alias means now."""
        detail = self.get_adapter(ref)
        return f"{name_of(ref)}@{detail.version}"

    def _stream(self, stream: LineStream, inputs: Iterable[Any]) -> Iterator[BulkLine]:
        arguments = self._connection.arguments(stream.request, self._connection.start(stream.request))
        request = self._http.build_request(content=stream.encoded(inputs), **arguments)
        try:
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise status_error(response)
                for text in response.iter_lines():
                    yield stream.decoded(text, response)
            finally:
                response.close()
        except httpx2.RequestError as failure:
            raise connection_error(failure) from failure
        stream.check_end(response)

    def _pages(self, call_at: Callable[[str | None], Call[Any]]) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page: Page[Any] = self._run(call_at(cursor))
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def _run(self, call: Call[T]) -> T:
        return call.decode(self._send(call.request))

    def _send(self, request: ApiRequest, spool: bundles.Spool | None = None) -> httpx2.Response:
        tries = self._connection.start(request)
        while True:
            try:
                response = self._exchange(self._build(request, tries), spool)
            except httpx2.RequestError as failure:
                pause_s = tries.after_failure(failure)
            else:
                if self._observe is not None:
                    self._observe(response)
                answered = tries.after_response(response)
                if answered is None:
                    return response
                pause_s = answered
            self._sleep(pause_s)

    def _build(self, request: ApiRequest, tries: Tries) -> httpx2.Request:
        content = request.content if request.upload is None else request.upload.chunks()
        return self._http.build_request(content=content, **self._connection.arguments(request, tries))

    def _exchange(self, request: httpx2.Request, spool: bundles.Spool | None) -> httpx2.Response:
        if spool is None:
            return self._http.send(request)
        response = self._http.send(request, stream=True)
        try:
            if not response.is_success:
                response.read()
                return response
            spool.restart()
            for chunk in response.iter_bytes():
                spool.write(chunk)
            return response
        finally:
            response.close()
