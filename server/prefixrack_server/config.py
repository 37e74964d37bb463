"""The server's settings: composed, frozen, read once from arguments and environment. Starts nothing, knows no torch.

`PREFIXRACK_HTTP__PORT=9000` sets `http.port`; an argument beats the environment, the environment beats the default.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from prefixrack.errors import PrefixrackError
from prefixrack.validation import first_problem
from prefixrack_server.engine_config import EngineConfig

ENV_PREFIX = "PREFIXRACK_"
DELIMITER = "__"
MIB = 1 << 20
MIN_GRACE_S = 60.0
DATABASES = ("sqlite:", "sqlite+aiosqlite:", "postgresql:", "postgresql+psycopg:")
BLOB_STORES = ("file:///", "s3://", "gs://", "az://", "abfs://", "abfss://")
REDIS_SCHEMES = ("redis://", "rediss://", "redis+unix://")

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
AuthMode = Literal["keys", "none"]
Scope = Literal["predict", "adapters:read", "adapters:write", "alias:promote", "tenant:admin", "admin"]
# Asymmetric ones only: with others, who can check a signature can make one.
SigningAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
ServingDtype = Literal["float32", "float16", "bfloat16"]


class ConfigError(PrefixrackError):
    """A setting is unknown or has a value that cannot work: the server does not start."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpConfig(Section):
    """`drain_s` is how long the server goes on accepting after SIGTERM, while it already reports not ready.

    `stall_timeout_s` is how long a client may take for the head of a request, or stall in its body or in reading.

    `workers` is the number of front-end processes that feed an engine in a process of its own; 0 is one process for
    all, None is 0 on a CPU and as many as the cores allow on a GPU.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=0, le=64)] | None = None
    auth: AuthMode = "keys"
    cors_origins: tuple[str, ...] = ()
    request_timeout_s: Seconds = 30.0
    max_timeout_s: Seconds = 600.0
    stall_timeout_s: Seconds = 30.0
    drain_s: Annotated[float, Field(ge=0)] = 0.0
    shutdown_grace_s: Positive = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        if self.auth == "none" and not is_loopback(self.host):
            raise ValueError(
                f"auth 'none' lets everyone who reaches {self.host!r} do everything: it is allowed on a loopback host "
                "(127.0.0.1, ::1, localhost) only; use auth 'keys'"
            )
        return self


class BackboneConfig(Section):
    """Which backbone, where and how precise; "auto" is filled in when it is loaded.

    With dtype int8 an adapter is served if at least `min_agreement` of its examples are decided as with the original
    weights, and scores differ by `max_score_drift` at most, in the mean over them.
    """

    path: str = "embedded"
    device: str = "auto"
    dtype: Literal["auto", "int8", ServingDtype] = "auto"
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.9
    max_score_drift: Annotated[float, Field(ge=0)] = 0.1

    @property
    def serving_dtype(self) -> ServingDtype:
        """What an adapter's values must be finite in. Beside int8 weights that is bfloat16 or float32, by processor:
        what is finite in the former is in the latter."""
        if self.dtype == "int8":
            return "bfloat16"
        return "float32" if self.dtype == "auto" else self.dtype


class RegistryConfig(Section):
    """`database_url` None means an SQLite file in the state folder, `blobs_url` None a folder in it: then the registry
    is this server's alone. Bundles in the folders of `adapters_dir` are registered at start, if their names were never
    used. `declared` is a file that says what the default tenant's registry holds: nothing else changes it then."""

    state_dir: Path = Path("prefixrack-data")
    database_url: SecretStr | None = None
    blobs_url: SecretStr | None = None
    blob_cache_bytes: Positive = 10_240 * MIB
    sweep_s: Seconds = 600.0
    adapters_dir: Path | None = None
    declared: Path | None = None

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(DATABASES):
            raise ValueError(
                "is none that is known: sqlite:///… and postgresql://user:password@host/database are allowed"
            )
        return url

    @field_validator("blobs_url")
    @classmethod
    def _check_blobs(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(BLOB_STORES):
            raise ValueError(f"is none that is known: allowed are {', '.join(f'{start}…' for start in BLOB_STORES)}")
        return url

    @property
    def sqlalchemy_url(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.state_dir / 'registry.sqlite3'}"

    @property
    def blobs_dir(self) -> Path:
        return self.state_dir / "blobs"

    @property
    def blob_cache_dir(self) -> Path:
        return self.state_dir / "blob-cache"

    @property
    def spool_dir(self) -> Path:
        return self.state_dir / "spool"


class SourcesConfig(Section):
    """Where bundles may be fetched from by URI: `allowed` are beginnings such as hf://owner, s3://bucket/path and
    file:///folder; nothing by default. Those in `adapters` are registered at start, as those of `registry.adapters_dir`
    are, and need not be allowed besides. `private_hosts` may have addresses that are not public, and plain HTTP."""

    allowed: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    private_hosts: tuple[str, ...] = ()
    hub_endpoint: str | None = None


class LimitsConfig(Section):
    """What one request may ask for, and what the server holds at once (`max_queued_*`, `bulk_*`).

    A quarter of `max_queued_*` is held beyond them for tenants that have less than their share of the queue.
    """

    max_body_bytes: Positive = 2 * MIB
    max_line_bytes: Positive = 2 * MIB
    max_inputs: Positive = 1024
    max_tokens: Positive = 65_536
    max_queued_rows: Positive = 8192
    max_queued_tokens: Positive = 262_144
    bulk_window: Positive = 256
    bulk_spool_bytes: Positive = 1024 * MIB
    max_bundle_bytes: Positive = 512 * MIB

    @property
    def max_held_rows(self) -> int:
        return self.max_queued_rows + self.max_queued_rows // 4

    @property
    def max_held_tokens(self) -> int:
        return self.max_queued_tokens + self.max_queued_tokens // 4


class MetricsConfig(Section):
    """How many adapter versions and tenants have a label of their own in the metrics: the busiest ones."""

    max_adapters: Annotated[int, Field(ge=1, le=1000)] = 100
    max_tenants: Annotated[int, Field(ge=1, le=1000)] = 50


class QuotasConfig(Section):
    """`redis_url` (redis://, rediss:// or redis+unix://) is where all servers count tenants' requests and tokens
    together; without it every server counts for itself."""

    redis_url: SecretStr | None = None

    @field_validator("redis_url")
    @classmethod
    def _check_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(REDIS_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(REDIS_SCHEMES)}")
        return url


class OidcConfig(Section):
    """Tokens that are taken beside API keys: those of `issuer` for `audience`, signed by a key at `jwks_url`.

    `tenant_claim` names the tenant, by way of `tenants` (value → tenant) where that is not empty. `scopes_claim` has
    what the token may do, by way of `scopes` (value → scopes); without that, scopes that administrate nothing count as
    they are.
    """

    issuer: str | None = None
    audience: str | None = None
    jwks_url: str | None = None
    algorithms: Annotated[tuple[SigningAlgorithm, ...], Field(min_length=1)] = ("RS256",)
    tenant_claim: str = "tenant"
    tenants: dict[str, str] = {}
    scopes_claim: str = "scope"
    scopes: dict[str, tuple[Scope, ...]] = {}
    leeway_s: Annotated[int, Field(ge=0, le=300)] = 30

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = {"issuer": self.issuer, "audience": self.audience, "jwks_url": self.jwks_url}
        missing = [name for name, value in given.items() if not value]
        if missing and len(missing) < len(given):
            raise ValueError(f"{' and '.join(missing)} must be set too: issuer, audience and jwks_url belong together")
        if self.jwks_url is not None and not _is_safe_url(self.jwks_url):
            raise ValueError("jwks_url must begin with https://; http:// is allowed on a loopback host")
        return self


class ServerConfig(BaseSettings):
    """Everything the server can be told. Build it with `load_config`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=DELIMITER,
        nested_model_default_partial_update=True,
    )

    http: HttpConfig = HttpConfig()
    backbone: BackboneConfig = BackboneConfig()
    engine: EngineConfig = EngineConfig()
    registry: RegistryConfig = RegistryConfig()
    limits: LimitsConfig = LimitsConfig()
    sources: SourcesConfig = SourcesConfig()
    metrics: MetricsConfig = MetricsConfig()
    quotas: QuotasConfig = QuotasConfig()
    oidc: OidcConfig = OidcConfig()

    @property
    def grace_s(self) -> float:
        """How long a deleted version's files stay: every request that may still be running is over then."""
        return max(MIN_GRACE_S, self.http.max_timeout_s)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def load_config(arguments: Mapping[str, Mapping[str, Any]]) -> ServerConfig:
    """Settings from `arguments` (section → key → value; None means not given) over the environment over defaults.

    Raises ConfigError, naming the key and the value.
    """
    _check_environment(os.environ)
    given = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in arguments.items()
    }
    try:
        return ServerConfig(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(_told(error)) from None


def resolve(config: ServerConfig, device: str, dtype: Literal["int8"] | ServingDtype, num_threads: int) -> ServerConfig:
    """The same settings with "auto" replaced by what the loaded backbone really uses, and an absolute state folder.

    `num_threads` is how many threads compute.
    """
    engine = config.engine.on(device).model_copy(update={"num_threads": num_threads})
    backbone = config.backbone.model_copy(update={"device": device, "dtype": dtype})
    registry = config.registry.model_copy(update={"state_dir": config.registry.state_dir.absolute()})
    return config.model_copy(update={"backbone": backbone, "engine": engine, "registry": registry})


def describe(config: ServerConfig) -> dict[str, Any]:
    """The settings as plain data for the log, secrets masked."""
    return config.model_dump(mode="json")


@lru_cache(maxsize=64)  # every request of a server without keys asks, always for the same few
def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_safe_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _check_environment(environ: Mapping[str, str]) -> None:
    """pydantic-settings reads the variables it knows; a misspelt section would pass silently without this."""
    sections = {name.upper() for name in ServerConfig.model_fields}
    for variable in environ:
        if not variable.startswith(ENV_PREFIX):
            continue
        section, delimiter, _ = variable.removeprefix(ENV_PREFIX).partition(DELIMITER)
        if delimiter and section.upper() not in sections:
            raise ConfigError(f"unknown setting {variable}: sections are {', '.join(sorted(sections))}")
        if not delimiter and section.partition("_")[0] in sections:
            raise ConfigError(f"unknown setting {variable}: put two underscores after the section's name")


def _told(error: ValidationError) -> str:
    problem = first_problem(error)
    key = problem.place
    if problem.kind == "extra_forbidden":
        return f"unknown setting {key} (value {problem.seen!r}): see the table of settings in deploy/README.md"
    is_shown = not key.endswith("_url") and not isinstance(problem.seen, dict | BaseModel)
    return f"setting {key}: {problem.sentence}" + (f", seen {problem.seen!r}" if is_shown else "")
