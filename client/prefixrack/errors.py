"""Every error the project names: the faults a server answers with, and what the client raises.

    PrefixrackError
    ├── Fault                          refused by the library or the server; has a `code`
    │   ├── InputFault                 one input is at fault; the others of the request go on
    │   │   ├── EmptyInput · InvalidUnicode · InvalidInput · InputTooLong
    │   │   └── TokenOutOfRange · PositionOutOfRange · NonfiniteOutput
    │   ├── RequestFault               the whole request is refused
    │   │   ├── MalformedJson · InvalidRequest · AllInputsFailed · UnsupportedMediaType · RequestStalled
    │   │   ├── PayloadTooLarge → TooManyInputs · TooManyTokens
    │   │   ├── MissingKey · InvalidKey → InvalidToken · InvalidName · SourceRefused
    │   │   ├── Forbidden → TenantDisabled · StorageQuotaExceeded
    │   │   ├── RouteNotFound · MethodNotAllowed · AdapterNotFound · VersionNotFound · AliasNotFound
    │   │   └── KeyNotFound · TenantNotFound
    │   ├── BundleFault                an uploaded or loaded adapter bundle is not acceptable
    │   │   ├── MalformedBundle · UnsafeArchive · BundleTooLarge · InvalidManifest
    │   │   └── TensorMismatch · NonfiniteTensor · BackboneMismatch · LabelMismatch · ProbeFailed ·
    │   │       AccuracyTooLow
    │   ├── RegistryFault              the registry cannot do that now
    │   │   ├── Conflict → IdempotencyConflict · PreconditionFailed → RequirementNotMet · PreconditionRequired
    │   │   └── RegistryReadOnly · DiskFull
    │   ├── ServiceFault               the server cannot answer now
    │   │   ├── RateLimited → QueueShareExceeded · RequestQuotaExceeded · TokenQuotaExceeded
    │   │   └── ServerOverloaded · NotReady · RegistryUnavailable · SourceUnavailable ·
    │   │       DeadlineExceeded · InternalFault → BlobUnusable
    │   └── UnsupportedBackbone        raised at start, never over HTTP
    └── APIError                       raised by the client
        ├── APIConnectionError → APITimeoutError
        ├── UnexpectedTaskError            the adapter does another task than the method called
        └── APIStatusError             one subclass per status, see `STATUS_ERRORS`

A `Fault` carries the value seen, the value allowed and the next step in its message. The status of each code
is the server's business (`prefixrack_server.problems`); the way back is `STATUS_ERRORS` here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class PrefixrackError(Exception):
    """Root of every error that the project raises on purpose."""


class Fault(PrefixrackError):
    """Something was refused. `code` names the reason for programs, `detail` says it to people."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.detail, self.retry_after_s)


def _rebuild(kind: type[Fault], detail: str, retry_after_s: float | None) -> Fault:
    return kind(detail, retry_after_s=retry_after_s)


class InputFault(Fault):
    code = "invalid_input"


class EmptyInput(InputFault):
    code = "empty_input"


class InvalidUnicode(InputFault):
    code = "invalid_unicode"


class InvalidInput(InputFault):
    code = "invalid_input"


class InputTooLong(InputFault):
    code = "input_too_long"


class TokenOutOfRange(InputFault):
    code = "token_out_of_range"


class PositionOutOfRange(InputFault):
    code = "position_out_of_range"


class NonfiniteOutput(InputFault):
    code = "nonfinite_output"


class RequestFault(Fault):
    code = "invalid_request"


class MalformedJson(RequestFault):
    code = "malformed_json"


class InvalidRequest(RequestFault):
    code = "invalid_request"


class AllInputsFailed(RequestFault):
    """Every input of the request was at fault; `errors` holds them in order."""

    code = "all_inputs_failed"

    def __init__(self, detail: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.errors = errors or []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.detail, self.errors)


class UnsupportedMediaType(RequestFault):
    code = "unsupported_media_type"


class RequestStalled(RequestFault):
    """The caller did not go on sending its request."""

    code = "request_stalled"


class PayloadTooLarge(RequestFault):
    code = "payload_too_large"


class TooManyInputs(PayloadTooLarge):
    code = "too_many_inputs"


class TooManyTokens(PayloadTooLarge):
    code = "too_many_tokens"


class MissingKey(RequestFault):
    code = "missing_key"


class InvalidKey(RequestFault):
    code = "invalid_key"


class InvalidToken(InvalidKey):
    """A signed token of an OpenID Connect issuer that is not accepted."""

    code = "invalid_token"


class Forbidden(RequestFault):
    code = "forbidden"


class TenantDisabled(Forbidden):
    code = "tenant_disabled"


class StorageQuotaExceeded(Forbidden):
    """The tenant may not have so many adapters, or so many bytes of them."""

    code = "storage_quota_exceeded"


class InvalidName(RequestFault):
    code = "invalid_name"


class RouteNotFound(RequestFault):
    code = "route_not_found"


class MethodNotAllowed(RequestFault):
    code = "method_not_allowed"


class AdapterNotFound(RequestFault):
    code = "adapter_not_found"


class VersionNotFound(RequestFault):
    code = "version_not_found"


class AliasNotFound(RequestFault):
    code = "alias_not_found"


class KeyNotFound(RequestFault):
    code = "key_not_found"


class TenantNotFound(RequestFault):
    code = "tenant_not_found"


class BundleFault(Fault):
    code = "malformed_bundle"


class MalformedBundle(BundleFault):
    code = "malformed_bundle"


class UnsafeArchive(BundleFault):
    code = "unsafe_archive"


class BundleTooLarge(BundleFault):
    code = "bundle_too_large"


class InvalidManifest(BundleFault):
    code = "invalid_manifest"


class TensorMismatch(BundleFault):
    code = "tensor_mismatch"


class NonfiniteTensor(BundleFault):
    code = "nonfinite_tensor"


class BackboneMismatch(BundleFault):
    code = "backbone_mismatch"


class LabelMismatch(BundleFault):
    code = "label_mismatch"


class ProbeFailed(BundleFault):
    code = "probe_failed"


class AccuracyTooLow(BundleFault):
    """With int8 weights the adapter answers its own examples otherwise than with the original ones."""

    code = "accuracy_gate"


class RegistryFault(Fault):
    code = "conflict"


class SourceRefused(RequestFault):
    """A URI that a bundle was to be fetched from is not allowed, or leads where the server does not go."""

    code = "source_refused"


class Conflict(RegistryFault):
    code = "conflict"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class RegistryReadOnly(RegistryFault):
    """A file declares what this server's registry holds: it is changed there."""

    code = "registry_read_only"


class PreconditionFailed(RegistryFault):
    code = "precondition_failed"


class RequirementNotMet(PreconditionFailed):
    """A version's claimed metric is missing, or not what a promotion asks for."""

    code = "requirement_not_met"


class PreconditionRequired(RegistryFault):
    code = "precondition_required"


class DiskFull(RegistryFault):
    code = "disk_full"


class ServiceFault(Fault):
    code = "internal_error"


class RateLimited(ServiceFault):
    code = "rate_limited"


class QueueShareExceeded(RateLimited):
    """The server is full, and this tenant has more than its share of what waits."""

    code = "queue_share_exceeded"


class RequestQuotaExceeded(RateLimited):
    code = "request_quota_exceeded"


class TokenQuotaExceeded(RateLimited):
    code = "token_quota_exceeded"


class ServerOverloaded(ServiceFault):
    code = "server_overloaded"


class NotReady(ServiceFault):
    code = "not_ready"


class RegistryUnavailable(ServiceFault):
    """The registry's database does not answer. Adapters that the server knows already go on answering."""

    code = "registry_unavailable"


class SourceUnavailable(ServiceFault):
    """What a bundle was to be fetched from does not answer, or has nothing there."""

    code = "source_unavailable"


class DeadlineExceeded(ServiceFault):
    code = "deadline_exceeded"


class InternalFault(ServiceFault):
    code = "internal_error"


class BlobUnusable(InternalFault):
    """A stored file of an adapter is gone or damaged: the server's fault, not the caller's."""

    code = "blob_unusable"


class UnsupportedBackbone(Fault):
    code = "unsupported_backbone"


def fault_classes() -> Iterator[type[Fault]]:
    """Every `Fault` class, the roots of the branches included."""
    pending: list[type[Fault]] = [Fault]
    while pending:
        kind = pending.pop()
        yield kind
        pending.extend(kind.__subclasses__())


class APIError(PrefixrackError):
    """The client could not get an answer."""


class APIConnectionError(APIError):
    """No usable answer came back from the server."""


class APITimeoutError(APIConnectionError):
    """The server did not answer within the timeout."""


class UnexpectedTaskError(APIError):
    """The adapter answers another task than the typed method is for."""


class APIStatusError(APIError):
    """The server answered with an error status.

    `code`, `request_id`, `retry_after` (seconds) and `body` (the decoded problem document, or the text) come from
    the response; `response` is the underlying httpx2 response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Any = None,
        response: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body
        self.response = response


class BadRequestError(APIStatusError):
    """400, 405, 408 and 415"""


class AuthenticationError(APIStatusError):
    """401"""


class PermissionDeniedError(APIStatusError):
    """403"""


class NotFoundError(APIStatusError):
    """404"""


class ConflictError(APIStatusError):
    """409"""


class PreconditionFailedError(APIStatusError):
    """412 and 428"""


class PayloadTooLargeError(APIStatusError):
    """413"""


class UnprocessableEntityError(APIStatusError):
    """422"""


class RateLimitError(APIStatusError):
    """429"""


class InternalServerError(APIStatusError):
    """500 and every other 5xx"""


class ServiceUnavailableError(InternalServerError):
    """503"""


class DeadlineExceededError(InternalServerError):
    """504"""


class InsufficientStorageError(InternalServerError):
    """507"""


STATUS_ERRORS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: BadRequestError,
    408: BadRequestError,
    409: ConflictError,
    412: PreconditionFailedError,
    413: PayloadTooLargeError,
    415: BadRequestError,
    422: UnprocessableEntityError,
    428: PreconditionFailedError,
    429: RateLimitError,
    500: InternalServerError,
    503: ServiceUnavailableError,
    504: DeadlineExceededError,
    507: InsufficientStorageError,
}


def error_class_of_status(status: int) -> type[APIStatusError]:
    """The exception that the client raises for an HTTP error status."""
    fallback = InternalServerError if status >= 500 else APIStatusError
    return STATUS_ERRORS.get(status, fallback)
