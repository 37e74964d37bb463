"""The pytest plugin: in a project of its own, against the server that it starts; and for nothing where it is unused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = """
import pytest
from prefixrack import UnprocessableEntityError
from prefixrack.testing import TinyAdapter


@pytest.fixture(scope="session")
def prefixrack_adapters(prefixrack_adapters):
    return {**prefixrack_adapters, "mood": TinyAdapter("text-classification", ("sad", "so", "happy"))}


def test_every_task(prefixrack_client):
    text = "Ada lives in Zürich 🏔."
    assert prefixrack_client.classify("sentiment", text).label in ("negative", "positive")
    for span in prefixrack_client.ner("ner", text).spans:
        assert text[span.start : span.end] == span.text
    prefixrack_client.answer("qa", {"question": "Where?", "context": text})
    assert prefixrack_client.choose("choice", {"text": text, "choices": ["yes", "no"]}).choice in (0, 1)
    assert len(prefixrack_client.embed("embedding", text).embedding) == 32
    with pytest.raises(UnprocessableEntityError):
        prefixrack_client.classify("sentiment", "")


def test_adapters_of_the_project(prefixrack_server):
    assert "mood" in prefixrack_server.adapters
    with prefixrack_server.client() as client:
        first, second = (client.classify("mood", "a fine day") for _ in range(2))
    assert first == second
    assert {entry.label for entry in first.scores} == {"sad", "so", "happy"}
"""
UNUSED = """
def test_nothing(request):
    import sys
    assert request.config.pluginmanager.hasplugin("prefixrack.testing")
    heavy = {"torch", "httpx2", "pydantic", "fastapi", "prefixrack.client"} & set(sys.modules)
    assert not heavy, heavy
"""
MISSING = """
import prefixrack.testing
prefixrack.testing.NEEDED = ("torch", "no_such_module")

def test_it(prefixrack_client):
    pass
"""


def run_pytest(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_project.py").write_text(code, encoding="utf-8")
    options = ["-p", "prefixrack.testing", "-p", "no:cacheprovider", "-q", "--rootdir", str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("code", "outcome"), [(PROJECT, "2 passed"), (UNUSED, "1 passed")], ids=["used", "unused"])
def test_a_project_with_the_plugin(tmp_path: Path, code: str, outcome: str) -> None:
    done = run_pytest(tmp_path, code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome in done.stdout


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, MISSING)
    assert done.returncode == 1
    assert "a server needs no_such_module: pip install 'prefixrack[server]'" in done.stdout
