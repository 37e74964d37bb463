"""KServe's own REST client over the Open Inference Protocol. It asks for older libraries than the server has, so it
runs in a virtual environment of its own, which `make test` makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keyed_server import World
from kserve_python import kserve_python

CALLS = Path(__file__).with_name("kserve_calls.py")


@pytest.fixture(scope="module")
def seen(world: World) -> dict[str, Any]:
    """What the client got."""
    command = [kserve_python(), "-I", str(CALLS), world.base_url, world.key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_health_and_readiness(seen: dict[str, Any]) -> None:
    assert [seen[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]


@pytest.mark.parametrize("form", ["json", "binary"])
def test_answers_in_either_form(world: World, seen: dict[str, Any], form: str) -> None:
    answer = seen[form]
    texts = ["how much money do i have in my checking account", "play the next song"]
    assert (answer["id"], answer["model"], answer["labels"]) == ("7", "intent", ["balance", "next_song"])
    expected = [output.score for output in world.outputs("intent", texts)]
    assert answer["scores"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "status", "code"), [("refused", 404, "adapter_not_found"), ("keyless", 401, "missing_key")]
)
def test_refusals_carry_the_code(seen: dict[str, Any], call: str, status: int, code: str) -> None:
    assert seen[call]["status"] == status
    assert f"{code}: " in seen[call]["message"]
