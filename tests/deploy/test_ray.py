"""Ray Serve: two replicas on this machine, one of them killed under load; nobody gets another answer or an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prefixrack_adapters.backbone import Backbone
from rack import running_rack
from real_parts import missing
from serve_process import free_port
from tiny import write_backbone, write_random_bundle

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("ray_cluster.py")
NAMES = ("red", "green", "blue", "grey")
LIMIT_S = 500


def ray_python() -> str:
    """An interpreter that has Ray beside this project: this one, or that of PREFIXRACK_RAY_PYTHON."""
    other = os.environ.get("PREFIXRACK_RAY_PYTHON")
    if other is None and find_spec("ray") is None:
        missing("ray is not installed: pip install 'prefixrack[ray]', or set PREFIXRACK_RAY_PYTHON")
    return other or sys.executable


def environment(folder: Path) -> dict[str, str]:
    paths = [str(ROOT / "deploy" / "ray"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PREFIXRACK_HTTP__AUTH": "none",
        "PREFIXRACK_BACKBONE__PATH": str(folder / "backbone"),
        "PREFIXRACK_BACKBONE__DTYPE": "float32",
        "PREFIXRACK_ENGINE__NUM_THREADS": "1",
        "PREFIXRACK_REGISTRY__STATE_DIR": str(folder / "state"),
        "PREFIXRACK_REGISTRY__ADAPTERS_DIR": str(folder / "bundles"),
        "PREFIXRACK_REGISTRY__DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'shared.sqlite3'}",
        "PREFIXRACK_REGISTRY__BLOBS_URL": f"file://{folder / 'blobs'}",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "blobs").mkdir()
    backbone = Backbone.load(write_backbone(folder / "backbone"), device="cpu")
    for seed, name in enumerate(NAMES):
        write_random_bundle(folder / "bundles" / name, backbone.spec, seed, name=name)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    command = [ray_python(), str(SCRIPT), str(free_port()), str(path), *NAMES]
    run = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_both_replicas_answered_and_the_killed_one_was_replaced(report: dict[str, Any]) -> None:
    assert report["have_both"]
    assert report["num_processes"] == 2
    assert report["is_replaced"]


def test_every_request_was_answered(report: dict[str, Any]) -> None:
    assert set(report["statuses"]) == {"200"}


async def test_the_answers_are_those_of_a_server_without_ray(
    report: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    backbone = Backbone.load(folder / "backbone", device="cpu")
    async with running_rack(backbone, tmp_path / "state") as rack, rack.client() as client:
        for name in NAMES:
            await rack.services.uploads.register_folder("default", folder / "bundles")
            expected = (await client.predict(name, "ada was born in london by the river")).outputs[0].model_dump()
            for output in report["outputs"][name]:
                assert output["label"] == expected["label"]
                assert output["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_an_adapter_stays_with_its_replica(report: dict[str, Any]) -> None:
    assert len(report["alone"]) == 21
    assert set(report["alone"]) == {report["alone"][0]}
