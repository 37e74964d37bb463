"""Dockerfile and compose file: linted, for nobody's root, and about files and settings that are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefixrack_server.config import load_config
from real_parts import program

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
DEV = "pip install 'prefixrack[dev]'"


def run(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
    return document


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_dockerfile_is_linted() -> None:
    run(program("hadolint", DEV), "Dockerfile")


def test_the_image_runs_as_nobody_in_particular() -> None:
    (user,) = re.findall(r"^USER (.*)$", dockerfile(), re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_both_targets_are_there_and_the_cpu_is_the_default() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile(), re.MULTILINE)
    assert {"cpu", "cuda"} < set(stages)
    assert stages[-1] == "cpu"


def test_what_the_dockerfile_copies_goes_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile(), re.MULTILINE)
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    for source in {name for line in copied for name in line.split()}:
        assert (ROOT / source).exists()
        assert any(source == name or source.startswith(f"{name}/") for name in kept)


@pytest.mark.parametrize(
    "settings",
    [
        dict(re.findall(r"(PREFIXRACK_\w+__\w+)=(\S+)", dockerfile())),
        {key: value for key, value in compose()["services"]["server"]["environment"].items() if "__" in key},
    ],
    ids=["Dockerfile", "compose"],
)
def test_its_settings_are_settings(settings: dict[str, str], no_settings: pytest.MonkeyPatch) -> None:
    assert settings
    for name, value in settings.items():
        no_settings.setenv(name, value)
    load_config({})


def test_the_compose_file_follows_the_compose_specification() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(program("check-jsonschema", DEV), *schema, str(COMPOSE / "compose.yaml"))


def test_files_that_the_compose_file_mounts_are_there() -> None:
    volumes = [volume for service in compose()["services"].values() for volume in service.get("volumes", ())]
    mounted = [volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    assert mounted
    assert all((COMPOSE / path).is_file() for path in mounted)


def test_every_password_is_asked_for_and_in_the_example() -> None:
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+_PASSWORD)[^}]*\}", text))
    assert asked == set(re.findall(r"\$\{(\w+_PASSWORD):\?", text))
    given = (COMPOSE / ".env.example").read_text(encoding="utf-8").splitlines()
    assert {f"{name}=" for name in asked} <= set(given)


def test_ports_are_this_machines_alone() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_accepts_its_configuration() -> None:
    promtool = program("promtool", "apt-get install prometheus")
    run(promtool, "check", "config", "--syntax-only", str(COMPOSE / "prometheus.yml"))
