"""The wire types: what goes over HTTP, defined once for client, library and server. Needs pydantic, nothing more.

Readers are tolerant (unknown fields of a response are kept out of the way); writers are strict (unknown request
parameters are refused, so that a misspelt option never passes silently).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

TaskName = Literal[
    "text-classification", "token-classification", "question-answering", "multiple-choice", "text-embedding"
]
OffsetUnit = Literal["codepoint", "utf16", "byte"]
Overlong = Literal["window", "error", "truncate"]


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True)


class Parameters(BaseModel):
    """Task parameters of a predict request; those that a task does not use are refused by that task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: Annotated[int, Field(ge=1)] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    overlong: Overlong | None = None
    offset_unit: OffsetUnit = "codepoint"
    logits: bool = False
    n_best: Annotated[int, Field(ge=1, le=100)] | None = None
    max_answer_len: Annotated[int, Field(ge=1, le=512)] | None = None
    null_threshold: float | None = None


class PredictRequest(BaseModel):
    """Body of `POST /v1/{adapter}/predict`. `inputs` is one input or a list of them, by task."""

    model_config = ConfigDict(extra="forbid")

    inputs: Any
    parameters: Parameters = Parameters()
    routing_key: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=256,
            description="Whose request it is, for an alias with a canary: the same key goes to the same version. The "
            "header X-Routing-Key says the same, for JSON Lines too.",
        ),
    ] = None


class FanOutRequest(PredictRequest):
    """Body of `POST /v1/predict`: the same inputs through several adapters in one pack."""

    adapters: Annotated[list[str], Field(min_length=1, max_length=256)]


class LabelScore(Wire):
    label: str
    score: float


class Output(Wire):
    """What every task's output has: `windows` only where the input made more than one row.

    `logits`, when asked for, are the head's outputs before any softmax, by task: one per label (of several windows
    their mean, weighted by tokens); per word one per label, or null for a word without a token; per window and token
    start and end; one per choice; per answer or entity one per label; the vector before it is normalised. With words
    and windows `logit_offsets` has the same shape and says where in the text each stands: [start, end] in the
    requested unit, or null for tokens outside of the context.
    """

    truncated: bool = False
    windows: int | None = None
    logits: list[Any] | None = None
    logit_offsets: list[Any] | None = None


class ClassificationOutput(Output):
    label: str
    score: float
    scores: list[LabelScore]


class MultiLabelOutput(Output):
    labels: list[LabelScore]
    scores: list[LabelScore]


class RegressionOutput(Output):
    value: float


class Span(Wire):
    """`start` and `end` are offsets into the string as sent, in the requested unit: `text[start:end]` is the span."""

    label: str
    start: int
    end: int
    text: str
    score: float
    word_start: int | None = None
    word_end: int | None = None


class TokenClassificationOutput(Output):
    spans: list[Span]
    tags: list[str] | None = None


class Answer(Wire):
    text: str
    start: int
    end: int
    score: float


class QuestionAnsweringOutput(Output):
    answer: Answer | None
    no_answer_score: float
    answers: list[Answer]


class ChoiceOutput(Output):
    choice: int
    scores: list[float]


class EmbeddingOutput(Output):
    embedding: list[float]


class JudgedAnswer(Wire):
    text: str
    label: str
    score: float
    scores: list[LabelScore]


class JudgedAnswersOutput(Output):
    """Input format `multirc`: each answer in the order sent, with a label of its own."""

    judged: list[JudgedAnswer]


class EntityOutput(Output):
    """Input format `record`: the entity that fills the gap, and all of them, best first; scores sum to 1."""

    entity: str
    score: float
    entities: list[LabelScore]


class InputError(Wire):
    code: str
    message: str


class FailedOutput(Wire):
    error: InputError


def _output_kind(value: Any) -> str:
    names = value if isinstance(value, dict) else value.__dict__
    keys = (
        "error", "spans", "no_answer_score", "choice", "embedding", "judged", "entity", "labels", "label", "value"
    )  # fmt: skip
    return next((key for key in keys if key in names), "value")


AnyOutput = Annotated[
    Annotated[FailedOutput, Tag("error")]
    | Annotated[TokenClassificationOutput, Tag("spans")]
    | Annotated[QuestionAnsweringOutput, Tag("no_answer_score")]
    | Annotated[ChoiceOutput, Tag("choice")]
    | Annotated[EmbeddingOutput, Tag("embedding")]
    | Annotated[JudgedAnswersOutput, Tag("judged")]
    | Annotated[EntityOutput, Tag("entity")]
    | Annotated[MultiLabelOutput, Tag("labels")]
    | Annotated[ClassificationOutput, Tag("label")]
    | Annotated[RegressionOutput, Tag("value")],
    Discriminator(_output_kind),
]


def output_json(output: Output | FailedOutput) -> dict[str, Any]:
    """An output as a server sends it. What is not set stays out, except `answer`: null says that there is none."""
    fields = output.model_dump(exclude_none=True)
    if isinstance(output, QuestionAnsweringOutput):
        fields.setdefault("answer", None)
    return fields


class AdapterRef(Wire):
    name: str
    version: int
    digest: str


class Usage(Wire):
    """`tokens` counts the tokens computed, special tokens included; `truncated` the inputs cut short."""

    tokens: int
    rows: int
    truncated: int


class PredictResponse(Wire):
    id: str
    adapter: AdapterRef
    task: TaskName
    outputs: list[AnyOutput]
    usage: Usage
    timings_ms: dict[str, float]


class FanOutResult(Wire):
    adapter: AdapterRef
    task: TaskName
    outputs: list[AnyOutput]


class FanOutResponse(Wire):
    id: str
    results: dict[str, FanOutResult | FailedOutput]
    usage: Usage


class BulkLine(Wire):
    """One line of a JSON Lines answer; exactly one of `output` and `error` is set."""

    index: int
    id: Any = None
    output: AnyOutput | None = None
    error: InputError | None = None


class AdapterSummary(Wire):
    name: str
    task: TaskName
    version: int
    digest: str
    labels: list[str]
    aliases: dict[str, int]
    num_versions: int
    created_at: str


class AdapterPage(Wire):
    data: list[AdapterSummary]
    next_cursor: str | None = None


class AdapterDetail(AdapterSummary):
    """What a caller needs to use an adapter: shape of an input, an example, its labels, its limits."""

    input_format: str = "plain"
    problem: str = "single_label"
    no_answer: bool = False
    input_schema: dict[str, Any]
    example: Any
    max_tokens: int
    prefix_kind: str = "deep"
    prefix_len: int
    metrics: list[dict[str, Any]] = []
    licence: str | None = None


class VersionInfo(Wire):
    name: str
    version: int
    digest: str
    size_bytes: int
    created_at: str
    created_by: str
    aliases: list[str] = []
    is_new: bool = True
    metrics: list[dict[str, Any]] = []


class VersionDetail(VersionInfo):
    """A version with what its uploader says of it: all of its bundle but the tensors."""

    manifest: dict[str, Any]
    card: str | None = None


class VersionPage(Wire):
    data: list[VersionInfo]
    next_cursor: str | None = None


class Claim(Wire):
    """A number in a version's manifest that met a requirement: the uploader's claim, which no server measured."""

    requirement: str
    name: str
    value: float
    dataset: str
    split: str = "dev"
    num_examples: int | None = None


class CanaryInfo(Wire):
    """A version that answers a share of an alias' requests, from 0 to 1."""

    version: int
    digest: str
    share: float


class AliasInfo(Wire):
    """`etag` goes into `If-Match` of the next change; `previous_version` is what a rollback returns to.

    `shadow_version` computes what the alias is asked, and answers nobody. `claims` is there in the answer to a
    promotion with requirements.
    """

    name: str
    alias: str
    version: int
    digest: str
    etag: str
    previous_version: int | None = None
    canary: CanaryInfo | None = None
    shadow_version: int | None = None
    claims: list[Claim] = []


class GatesInfo(Wire):
    """What each promotion of an alias must show; an alias with gates is protected."""

    name: str
    alias: str
    require: list[str]


class ResidencyInfo(Wire):
    """Where a version's tensors are: on the device (`resident`), in host memory (`host`), or in files (`absent`)."""

    name: str
    version: int
    digest: str
    keep_resident: bool
    state: Literal["absent", "host", "loading", "resident", "failed"]


class KeyInfo(Wire):
    """An API key as the server lists it; `secret` is present once, in the answer that made the key.

    `adapters` has patterns of the names that the key is limited to, none for all; `name` is what people call it;
    `replaces` is the id of the key whose successor it was made as.
    """

    id: str
    tenant: str
    scopes: list[str]
    created_at: str
    expires_at: str | None = None
    adapters: list[str] = []
    name: str | None = None
    replaces: str | None = None
    secret: str | None = None


class KeyPage(Wire):
    data: list[KeyInfo]
    next_cursor: str | None = None


Quota = Annotated[int, Field(ge=0, le=10**15, strict=True)]


class Quotas(Wire):
    """What a tenant may take: each is a number, or null for no limit."""

    requests_per_minute: Quota | None = None
    tokens_per_minute: Quota | None = None
    max_adapters: Quota | None = None
    max_bytes: Quota | None = None


class QuotaChange(Quotas):
    """What is named is set, null for no limit; what is not named stays."""

    model_config = ConfigDict(extra="forbid")


class Stored(Wire):
    """How many adapters a tenant has, and how many bytes of them."""

    num_adapters: int
    num_bytes: int


class TenantInfo(Wire):
    """Who owns adapters and keys. `weight` is its share of a busy server against that of others; `adapters` has
    patterns of the names that its keys may use, none for all. `stored` is there where one tenant is shown."""

    name: str
    weight: float = 1.0
    quotas: Quotas = Quotas()
    adapters: list[str] = []
    created_at: str
    disabled_at: str | None = None
    stored: Stored | None = None


class TenantPage(Wire):
    data: list[TenantInfo]
    next_cursor: str | None = None


class WhoAmI(Wire):
    """Who the server takes the caller for, and what that lets it do.

    `key_id` is what the audit log has for its changes. An adapter's name must fit a pattern of each list in
    `adapter_patterns`; with no list every name does.
    """

    tenant: str
    key_id: str
    key_name: str | None = None
    authenticated_by: Literal["key", "token", "none"]
    scopes: list[str]
    expires_at: str | None = None
    adapter_patterns: list[list[str]] = []
    weight: float = 1.0
    quotas: Quotas = Quotas()


class AuditLine(Wire):
    """A change, and who made it: by the key's id, in the request of this id. `detail` has what was replaced as `before`
    and `after`, where something was. `key_name` is the key's, revoked or not, if it has one that the reader may know:
    those of other tenants' keys only admins of all tenants do."""

    id: int
    at: str
    tenant: str
    key_id: str
    key_name: str | None = None
    action: str
    target: str
    request_id: str | None = None
    detail: dict[str, Any] = {}


class AuditPage(Wire):
    data: list[AuditLine]
    next_cursor: str | None = None


class UsageLine(Wire):
    """What a tenant had computed by one adapter on one day (UTC)."""

    tenant: str
    day: str
    adapter: str
    requests: int
    rows: int
    tokens: int


class UsagePage(Wire):
    data: list[UsageLine]
    next_cursor: str | None = None


class Problem(BaseModel):
    """`application/problem+json` (RFC 9457) with the project's own members."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    error: str
    errors: list[dict[str, Any]] | None = None
