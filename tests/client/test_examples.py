"""The client's examples: checked as strictly as users may check theirs, and each run against a server."""

from __future__ import annotations

import asyncio
import inspect
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prefixrack import AsyncClient, Client

EXAMPLES = sorted((Path(__file__).parents[2] / "client" / "examples").glob("*.py"))
SPAN = {"label": "PER", "start": 0, "end": 3, "text": "Ada", "score": 0.9}
SHOWN = {
    "classify": ["a 0.900", "failed: empty_input"],
    "entities_async": ["[('PER', 'Ada')]"],
    "map_a_file": ["intent@3: 2 inputs, 0 failed, 0 were there already"],
    "raw_response": ["req-1 200 dddddddddddd", "404 adapter_not_found req-9"],
    "stream_lines": ["0 of 1000 failed"],
}


def test_they_pass_strict_type_checking(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path),
        "--config-file",
        "",
        "--follow-imports",
    ]
    done = subprocess.run([*command, "silent", *map(str, EXAMPLES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_they_run(
    path: Path, wire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        answer: httpx2.Response = _answer(wire, request)
        answer.headers["x-request-id"] = "req-1"
        return answer

    transport = httpx2.MockTransport(respond)
    monkeypatch.setattr("prefixrack.Client", lambda: Client("http://rack", transport=transport), raising=False)
    monkeypatch.setattr(
        "prefixrack.AsyncClient", lambda: AsyncClient("http://rack", transport=transport), raising=False
    )
    (tmp_path / "in.csv").write_text("text\na\nb\n")
    main = runpy.run_path(str(path))["main"]
    arguments = [str(tmp_path / "in.csv"), str(tmp_path / "out.csv")] if inspect.signature(main).parameters else []
    outcome = main(*arguments)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    shown = capsys.readouterr().out
    assert not [line for line in SHOWN[path.stem] if line not in shown], shown


def _answer(wire: Any, request: httpx2.Request) -> Any:
    if "no-such-adapter" in request.url.path:
        return wire.problem(404, "adapter_not_found")
    if request.method == "GET":
        return wire.detail()
    if request.headers["content-type"] == "application/jsonl":
        lines = [json.loads(line) for line in request.read().splitlines()]
        answers = [{"index": index, "output": wire.label("a")} for index, _ in enumerate(lines)]
        return httpx2.Response(200, text="".join(json.dumps(answer) + "\n" for answer in answers))
    inputs = json.loads(request.content)["inputs"]
    if "/ner/" in request.url.path:
        return wire.prediction(*[{"spans": [SPAN]} for _ in inputs], task="token-classification")
    texts = inputs if isinstance(inputs, list) else [inputs]
    return wire.prediction(*[wire.label("a") if text else wire.failed() for text in texts])
