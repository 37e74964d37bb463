"""The page about other clients: its examples print what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keyed_server import World
from kserve_python import kserve_python

GUIDE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
PRINTED = re.compile(r"print\(.*\)  # (.+)")


def test_every_client_has_an_example() -> None:
    for library in ("huggingface_hub", "tritonclient", "kserve", "openai"):
        assert any(re.search(rf"(?:from|import) {library}", example) for example in EXAMPLES), library


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_print_what_they_say(world: World, example: str) -> None:
    expected = PRINTED.findall(example)
    assert expected
    code = example.replace("127.0.0.1:8000", world.host)
    python = kserve_python() if "from kserve" in example else sys.executable
    environment = {**os.environ, "PREFIXRACK_API_KEY": world.key, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines() == expected
