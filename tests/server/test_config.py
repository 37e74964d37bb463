"""Settings: where they come from, and what refuses to start."""

from __future__ import annotations

import math
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from typer.testing import CliRunner

from prefixrack_server.commands import serve, with_workers
from prefixrack_server.config import ConfigError, describe, is_loopback, load_config, resolve
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.http_server import DrainingServer
from prefixrack_server.state_folder import claimed
from serve_process import free_port


def test_defaults(no_settings: Any) -> None:
    config = load_config({})
    assert (config.http.host, config.http.port, config.http.auth) == ("127.0.0.1", 8000, "keys")
    assert (config.limits.max_body_bytes, config.limits.max_inputs, config.limits.max_tokens) == (2 << 20, 1024, 65536)
    assert config.registry.state_dir == Path("prefixrack-data")


def test_arguments_beat_the_environment_and_merge_with_it(no_settings: Any) -> None:
    no_settings.setenv("PREFIXRACK_HTTP__PORT", "9000")
    no_settings.setenv("PREFIXRACK_HTTP__HOST", "::1")
    no_settings.setenv("PREFIXRACK_LIMITS__MAX_INPUTS", "7")
    config = load_config({"http": {"port": 9001, "host": None}})
    assert (config.http.port, config.http.host, config.limits.max_inputs) == (9001, "::1", 7)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PREFIXRACK_HTTP__PORT", "many", ["http.port", "many"]),
        ("PREFIXRACK_HTTP__PORT", "70000", ["http.port", "70000"]),
        ("PREFIXRACK_HTTP__PRT", "80", ["http.prt", "80"]),
        ("PREFIXRACK_HTPP__PORT", "80", ["PREFIXRACK_HTPP__PORT"]),
        ("PREFIXRACK_HTTP_PORT", "80", ["PREFIXRACK_HTTP_PORT", "two underscores"]),
        ("PREFIXRACK_HTTP__AUTH", "nobody", ["http.auth", "nobody"]),
        ("PREFIXRACK_BACKBONE__DTYPE", "float64", ["backbone.dtype:", "float64", "'int8', 'float32', 'float16'"]),
        ("PREFIXRACK_ENGINE__MAX_PACK_TOKENS", "0", ["engine.max_pack_tokens", "0"]),
    ],
)
def test_unknown_keys_and_bad_values_are_named(no_settings: Any, variable: str, value: str, words: list[str]) -> None:
    no_settings.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_config({})
    for word in words:
        assert word in str(caught.value)


def test_what_a_check_of_ours_says_stands_alone(no_settings: Any) -> None:
    no_settings.setenv("PREFIXRACK_REGISTRY__DATABASE_URL", "mysql://user:secret@host/db")
    with pytest.raises(
        ConfigError, match=r"^setting registry\.database_url: is none that is known: sqlite:///… and [^,]+$"
    ):
        load_config({})


def test_other_parts_variables_are_not_settings(no_settings: Any) -> None:
    for name in ("PREFIXRACK_BASE_URL", "PREFIXRACK_API_KEY", "PREFIXRACK_DATA"):
        no_settings.setenv(name, "something")
    load_config({})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_no_auth_on_loopback_only(no_settings: Any, host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        load_config({"http": {"auth": "none", "host": host}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts(no_settings: Any, host: str) -> None:
    assert is_loopback(host)
    assert load_config({"http": {"auth": "none", "host": host}}).http.auth == "none"


def test_files_of_deleted_versions_outlast_every_request(no_settings: Any) -> None:
    assert load_config({}).grace_s == 600
    assert load_config({"http": {"max_timeout_s": 5}}).grace_s == 60


def test_resolve_fills_in_what_is_really_used(no_settings: Any) -> None:
    config = load_config({})
    resolved = resolve(config, "cuda:0", "bfloat16", num_threads=3)
    assert resolved.engine.num_threads == 3
    assert (resolved.backbone.device, resolved.backbone.serving_dtype) == ("cuda:0", "bfloat16")
    assert resolved.registry.state_dir.is_absolute()
    assert config.backbone.device == "auto"


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        ("cpu", {}, (2048, False)),
        ("cuda:0", {}, (2048, True)),
        ("cuda:0", {"max_pack_tokens": 2048}, (2048, False)),
        ("cuda:0", {"max_pack_tokens": 512}, (512, False)),
        ("cpu", {"max_pack_tokens": "auto"}, (2048, True)),
    ],
)
def test_packs_are_measured_on_a_gpu_unless_their_size_is_set(
    no_settings: Any, device: str, given: dict[str, Any], expected: tuple[int, bool]
) -> None:
    config = load_config({"engine": given | {"num_loaders": 2}})
    resolved = resolve(config, device, "float32", num_threads=1).engine
    assert (resolved.first_pack_tokens, resolved.max_pack_tokens == "auto") == expected
    assert resolved.num_loaders == 2


@pytest.mark.parametrize(
    ("device", "given", "expected"), [("cpu", None, 0), ("cuda:1", None, 3), ("cpu", 2, 2), ("cuda", 0, 0)]
)
def test_a_gpu_has_front_ends_by_default(no_settings: Any, device: str, given: int | None, expected: int) -> None:
    no_settings.setattr(os, "sched_getaffinity", lambda _: range(6))
    config = load_config({"backbone": {"device": device}, "http": {"workers": given}})
    assert with_workers(config).http.workers == expected


def test_what_is_automatic_depends_on_the_device() -> None:
    automatic, given = EngineConfig(), EngineConfig(host_bytes=5, max_pack_rows=7)
    assert (automatic.host_budget_bytes(True), automatic.host_budget_bytes(False)) == (4 << 30, 0)
    assert (automatic.pack_rows(True), automatic.pack_rows(False)) == (1024, 256)
    assert (given.host_budget_bytes(False), given.pack_rows(True)) == (5, 7)


def test_packs_of_a_deep_queue_are_larger_on_a_cpu() -> None:
    assert EngineConfig().deep_tokens(False, 100) == 200
    assert EngineConfig().deep_tokens(True, 100) == 0
    assert EngineConfig(deep_pack_tokens=0).deep_tokens(False, 100) == 0
    assert EngineConfig(deep_pack_tokens=7).deep_tokens(True, 100) == 7


def test_packs_of_a_shared_engine_grow_with_what_computes_them() -> None:
    automatic, given = EngineConfig(), EngineConfig(shared_pack_tokens=7)
    of_one = automatic.shared_tokens(False, num_threads=1, itemsize=4)
    assert automatic.shared_tokens(False, num_threads=3, itemsize=2) == 6 * of_one
    assert automatic.shared_tokens(True, num_threads=1, itemsize=2) == math.inf
    assert given.shared_tokens(True, num_threads=3, itemsize=2) == 7


def test_secrets_are_masked_in_the_log(no_settings: Any) -> None:
    url = "postgresql+psycopg://user:hunter2@db/prefixrack"
    no_settings.setenv("PREFIXRACK_REGISTRY__DATABASE_URL", url)
    config = load_config({})
    assert config.registry.sqlalchemy_url == url
    assert "hunter2" not in str(describe(config))
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--backbone", ""], "backbone.path"),
        (["--auth", "none", "--host", "0.0.0.0", "--backbone", "x"], "loopback"),
        (["--backbone", "x", "--adapters", "/does/not/exist"], "/does/not/exist"),
        (["--backbone", "/does/not/exist"], "/does/not/exist"),
    ],
)
def test_serve_refuses_to_start(no_settings: Any, tmp_path: Path, arguments: list[str], word: str) -> None:
    result = run_serve(tmp_path, *arguments)
    assert result.exit_code == 2
    assert word in result.output


def run_serve(state_dir: Path, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(serve)
    return CliRunner().invoke(app, ["--state-dir", str(state_dir), "--port", str(free_port()), *arguments])


def test_serve_refuses_a_busy_port(no_settings: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        result = run_serve(tmp_path, "--backbone", "/does/not/exist", "--port", str(port))
    assert result.exit_code == 2
    assert f"port {port}" in result.output
    assert "in use" in result.output


async def test_a_port_that_was_taken_while_the_backbone_loaded(no_settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        server = DrainingServer(load_config({"http": {"port": port}}).http, FastAPI(), None)
        with pytest.raises(ConfigError, match=f"port {port}"):
            await server.serve()


def test_serve_refuses_a_folder_that_another_server_uses(no_settings: Any, tmp_path: Path) -> None:
    with claimed(tmp_path / "state"):
        result = run_serve(tmp_path / "state", "--backbone", "/does/not/exist")
    assert result.exit_code == 2
    assert "another server" in result.output
    with claimed(tmp_path / "state"):
        pass  # it is free again


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), claimed(tmp_path / "file" / "state"):
        raise AssertionError("nobody may get here")


def test_every_setting_is_documented(no_settings: Any) -> None:
    text = (Path(__file__).parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| `?([^|`]*)`? \|", text, re.MULTILINE))
    config = load_config({})
    expected = {
        f"{section}.{key}": shown(value)
        for section in type(config).model_fields
        for key, value in getattr(config, section).model_dump(mode="json").items()
    }
    assert rows == expected


def shown(value: Any) -> str:
    """A default as the table says it."""
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
