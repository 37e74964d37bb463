"""The commands that stay: `top`, `bench`, `playground`; and what the shell completes."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from rich.console import Console
from typer.testing import CliRunner

from prefixrack.cli import completion
from prefixrack.cli.app import build_app
from prefixrack.cli.session import Session
from prefixrack.cli.top_view import Activity, draw, sparkline
from prefixrack.exposition import Interval, Scrape

METRICS = """\
prefixrack_engine_ready 1.0
prefixrack_queue_rows {queue}
prefixrack_resident_adapters 6.0
prefixrack_resident_bytes 512
prefixrack_resident_budget_bytes 1024
prefixrack_tokens_total {tokens}
prefixrack_packs_total {packs}
prefixrack_pack_rows_sum {rows}
prefixrack_pack_rows_count {packs}
prefixrack_build_info{{backbone="tiny [bold]",device="cpu"}} 1.0
prefixrack_adapter_requests_total{{adapter="intent",outcome="ok",tenant="acme",version="3"}} {packs}
prefixrack_adapter_requests_total{{adapter="intent",outcome="server_error",tenant="acme",version="3"}} {errors}
prefixrack_adapter_requests_total{{adapter="idle",outcome="ok",tenant="acme",version="1"}} 5
prefixrack_adapter_tokens_total{{adapter="intent",tenant="acme",version="3"}} {tokens}
prefixrack_adapter_seconds_bucket{{adapter="intent",le="0.1",tenant="acme",version="3"}} {packs}
prefixrack_adapter_seconds_bucket{{adapter="intent",le="+Inf",tenant="acme",version="3"}} {packs}
"""


def metrics(tokens: int, packs: int, errors: int = 0) -> str:
    return METRICS.format(queue=2, tokens=tokens, packs=packs, rows=4 * packs, errors=errors)


Run = Callable[..., Any]


@pytest.fixture
def run(script: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "150")
    session = Session("http://rack", transport=httpx2.MockTransport(script.respond), sleep=script.sleep)
    monkeypatch.setattr("prefixrack.cli.app.replace", lambda _session, **_given: session)

    def invoke(*args: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(build_app(), list(args), obj=session, input=stdin)

    return invoke


def activity() -> Activity:
    before, after = Scrape.parse(metrics(1000, 10), 0.0), Scrape.parse(metrics(3000, 30, errors=10), 2.0)
    return Activity.of(Interval(before, after), "http://rack")


def test_top_takes_rates_from_two_scrapes() -> None:
    seen = activity()
    assert (seen.tokens_per_s, seen.packs_per_s, seen.rows_per_pack) == (1000, 10, 4)
    assert (seen.requests_per_s, seen.errors_per_s, seen.queue_rows) == (15, 5, 2)
    assert seen.latency_s == pytest.approx((0.05, 0.095, 0.099))
    (only,) = seen.adapters  # the one that answered in the interval
    assert (only.adapter, only.version, only.tenant, only.errors_per_s) == ("intent", "3", "acme", 5)


@pytest.mark.parametrize("width", [60, 100, 150])
def test_top_draws_within_any_terminal(width: int) -> None:
    out = Console(width=width, file=io.StringIO(), record=True)
    out.print(draw(activity(), [1.0, 5.0, 1000.0], height=30))
    shown = out.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert "tiny [bold]" in shown or width < 100
    assert "1,000" in shown
    assert "50 ms" in shown
    assert "▁▁█" in shown


def test_a_sparkline_is_scaled_to_its_greatest_value() -> None:
    assert sparkline([0, 5, 10, 10], 3) == "▅██"
    assert sparkline([], 3) == ""
    assert sparkline([0, 0], 3) == "▁▁"


def test_top_once(run: Run, script: Any) -> None:
    script.queue(*(httpx2.Response(200, text=metrics(tokens, 10 * tokens)) for tokens in (1, 2, 3, 4)))
    assert "intent@3" in run("top", "--once").stdout
    result = run("top", "--json", "--interval", "7")
    assert json.loads(result.stdout)["adapters"][0]["adapter"] == "intent"
    assert script.pauses == [2.0, 7.0]


def test_top_goes_on_until_it_is_interrupted(run: Run, script: Any) -> None:
    def interrupt(_request: httpx2.Request) -> httpx2.Response:
        raise KeyboardInterrupt

    script.queue(*(httpx2.Response(200, text=metrics(n, n)) for n in (1, 2, 3)), interrupt)
    result = run("top")
    assert result.exit_code == 0, result.output
    assert "intent@3" in result.stdout
    assert len(script.pauses) == 3


def rack(wire: Any, code: str | None = None) -> Callable[[httpx2.Request], httpx2.Response]:
    def respond(request: httpx2.Request) -> httpx2.Response:
        answer: httpx2.Response
        if request.url.path == "/v1/adapters":
            answer = wire.page([wire.summary("intent"), wire.summary("intent-two")])
        elif request.method == "GET":
            answer = wire.detail()
        elif code is not None:
            answer = wire.problem(429, code)
        else:
            answer = wire.prediction(wire.label("pos", 0.75))
        return answer

    return respond


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at it takes a millisecond: a tenth of a second has the same requests on any machine."""
    looks = itertools.count()
    monkeypatch.setattr("prefixrack.load.perf_counter", lambda: next(looks) / 1000)


@pytest.mark.usefixtures("own_clock")
def test_bench_reports_latencies(run: Run, script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "answers", Endless(rack(wire)))
    result = run("bench", "--duration", "0.2", "--concurrency", "2", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["num_requests"] > 0
    assert report["p50_ms"] <= report["p95_ms"] <= report["p99_ms"] <= report["max_ms"]
    asked = {request.url.path for request in script.requests if request.method == "POST"}
    assert asked == {"/v1/intent/predict", "/v1/intent-two/predict"}
    shown = run("bench", "http://rack", "--adapter", "intent", "--rate", "50", "--duration", "0.2").stdout
    assert "open loop, 50 requests/s" in shown
    assert "p99" in shown


@pytest.mark.usefixtures("own_clock")
def test_bench_with_failures_is_exit_code_1(
    run: Run, script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(script, "answers", Endless(rack(wire, "rate_limited")))
    file = tmp_path / "in.jsonl"
    file.write_text('"a"\n{"inputs": "b"}\n')
    result = run("bench", "--adapter", "intent", "--file", str(file), "--duration", "0.1")
    assert (result.exit_code, "rate_limited" in result.stdout) == (1, True)
    assert {json.loads(request.content)["inputs"] for request in script.requests} == {"a", "b"}
    file.write_text("{")
    assert run("bench", "--adapter", "intent", "--file", str(file)).exit_code == 2


class Endless:
    """In place of the script's queue: the same answer for ever."""

    def __init__(self, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self._answer = answer

    def popleft(self) -> Callable[[httpx2.Request], httpx2.Response]:
        return self._answer


def test_playground(run: Run, script: Any, wire: Any) -> None:
    script.queue(
        wire.page([wire.summary()]),
        wire.detail(),
        wire.prediction(wire.label("pos", 0.75)),
        wire.problem(422, "all_inputs_failed"),
        wire.problem(404, "adapter_not_found"),
        wire.page([wire.summary("other")]),
    )
    result = run("playground", stdin="hi\n\n \nbad\n/use nothing\n/list\n/help\n/quit\n")
    assert result.exit_code == 0, result.output
    assert "██████████████████░░░░░░  0.750  pos" in result.stdout
    assert "code all_inputs_failed" in result.stdout
    assert "code adapter_not_found" in result.stdout
    assert "other" in result.stdout
    assert json.loads(script.requests[2].content)["inputs"] == "hi"


@pytest.mark.parametrize(
    ("example", "typed", "inputs"),
    [
        ({"context": "c", "question": "q"}, "who?\nAda.\n", {"question": "who?", "context": "Ada."}),
        ({"choices": ["a", "b"], "text": "t"}, "so\nx | y\n", {"text": "so", "choices": ["x", "y"]}),
        ({"tokens": ["a"]}, "a text\n", "a text"),
        ({"tokens": ["a"], "predicate_index": 0}, "1\na | b\n", {"predicate_index": 1, "tokens": ["a", "b"]}),
    ],
)
def test_playground_asks_for_each_field(
    run: Run, script: Any, wire: Any, example: Any, typed: str, inputs: Any
) -> None:
    detail = wire.detail().json() | {"example": example}
    script.queue(httpx2.Response(200, json=detail), wire.prediction(wire.label("a")), wire.prediction(wire.label("a")))
    result = run("playground", "intent", stdin=f"{typed}/example\n")  # then the end of the input
    assert result.exit_code == 0, result.output
    assert [json.loads(request.content)["inputs"] for request in script.requests[1:]] == [inputs, example]


def test_the_shell_completes_names_and_aliases(script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("http://rack", transport=httpx2.MockTransport(script.respond))
    monkeypatch.setattr(completion, "Session", lambda *_given: session)
    complete = {"_PREFIXRACK_COMPLETE": "complete_zsh"}

    def offered(line: str) -> str:
        return (
            CliRunner()
            .invoke(build_app(), env=complete | {"_TYPER_COMPLETE_ARGS": line}, prog_name="prefixrack")
            .stdout
        )

    script.queue(*[wire.page([wire.summary(), wire.summary("intent-two"), wire.summary("my-intent")])] * 3)
    assert "intent-two" in offered("prefixrack predict int")
    assert "my-intent" not in offered("prefixrack show int")
    assert "intent@latest" in offered("prefixrack promote intent@l")
    script.queue(httpx2.ConnectError("refused"), wire.problem(401, "invalid_key"))
    assert "intent" not in offered("prefixrack predict int")
    assert "intent" not in offered("prefixrack predict int")
    assert "playground" in offered("prefixrack pl")
