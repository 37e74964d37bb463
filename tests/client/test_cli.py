"""The command: exit codes, `--json`, what people read, and commands of other packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from prefixrack.cli import doctor, plugins
from prefixrack.cli.app import build_app
from prefixrack.cli.session import Session

Run = Callable[..., Any]


@pytest.fixture
def run(script: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")
    session = Session(transport=httpx2.MockTransport(script.respond), sleep=script.sleep)

    def invoke(*args: str, stdin: str | None = None) -> Any:
        return CliRunner().invoke(build_app(), list(args), obj=session, input=stdin)

    return invoke


def test_predict_for_programs(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pös"), wire.label("neg")))
    result = run("predict", "intent", "a", "b", "--param", "top_k=2", "--json")
    assert result.exit_code == 0
    assert [output["label"] for output in json.loads(result.stdout)["outputs"]] == ["pös", "neg"]
    assert json.loads(script.requests[0].content) == {"inputs": ["a", "b"], "parameters": {"top_k": 2}}


def test_predict_shows_bars(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pos", 0.75)))
    result = run("predict", "intent", "hi")
    assert "██████████████████░░░░░░" in result.stdout
    assert "intent@3" in result.stdout


@pytest.mark.parametrize(
    ("args", "inputs"),
    [
        (["hi"], "hi"),
        (["a", "b"], ["a", "b"]),
        (["a", "--pair", "b"], {"text": "a", "text_pair": "b"}),
        (["--question", "q", "--context", "c"], {"question": "q", "context": "c"}),
        (["t", "--choice", "x", "--choice", "y"], {"text": "t", "choices": ["x", "y"]}),
        (["--input", '{"title": "é"}'], {"title": "é"}),
        (["--input", '"a"', "--input", '{"text": "b"}'], ["a", {"text": "b"}]),
    ],
)
def test_arguments_become_inputs(run: Run, script: Any, wire: Any, args: list[str], inputs: Any) -> None:
    script.queue(wire.prediction(*[wire.label("pos")] * (2 if isinstance(inputs, list) else 1)))
    assert run("predict", "intent", *args).exit_code == 0
    assert json.loads(script.requests[0].content)["inputs"] == inputs


@pytest.mark.parametrize(
    "args",
    [
        ["predict", "intent"],
        ["predict", "intent", "a", "b", "--pair", "c"],
        ["predict", "intent", "a", "--pair", "b", "--choice", "c"],
        ["predict", "intent", "--question", "q"],
        ["predict", "intent", "a", "--question", "q", "--context", "c"],
        ["predict", "intent", "a", "--param", "top_k"],
        ["predict", "intent", "--input", "{"],
        ["predict", "intent", "a", "--input", '"b"'],
        ["predict", "intent", "--input", '"b"', "--file", "x.jsonl"],
        ["predict", "intent", "a", "--file", "x.jsonl"],
        ["predict", "intent", "--file", "missing.jsonl"],
        ["predict", "../x", "a"],
        ["predict"],
        ["nothing-like-it"],
        ["list", "--limit", "0"],
        ["list", "intent", "--search", "x"],
        ["list", "intent", "--tenant", "acme"],
        ["delete", "intent@stable", "--yes"],
        ["--base-url", "localhost", "list"],
    ],
)
def test_usage_errors(run: Run, script: Any, args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr
    assert script.requests == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["list", "--limit", "0"], "'--limit': Input should be greater than or equal to 1; seen '0'"),
        (["list", "--limit", "few"], "'--limit': Input should be a valid integer, unable to parse"),
        (["--timeout", "soon", "list"], "'--timeout': Input should be a valid number, unable to parse"),
        (["canary", "intent@2", "--share", "1.5"], "--share is 1.5: a number between 0 and 1, such as 0.05; `promote`"),
        (["canary", "intent@2", "--share", "0"], "--share is 0: a number between 0 and 1"),
        (["canary", "intent@2", "--share", "half"], "unable to parse string as a number; seen 'half'"),
    ],
)
def test_a_bad_value_is_shown_with_what_is_allowed(run: Run, script: Any, args: list[str], sentence: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())
    assert script.requests == []


def test_a_choice_that_there_is_not_is_told_in_our_words(run: Run) -> None:
    result = run("train", "--task", "translation", "-o", "x")
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert "Invalid value for '--task': 'translation' is not one of 'text-classification', 'token-cla" in shown
    assert "seen" not in shown


def test_outputs_of_every_task_for_people(run: Run, script: Any, wire: Any) -> None:
    span = {"label": "PER", "start": 0, "end": 3, "text": "Ada", "score": 0.91}
    answer = {"text": "here", "start": 3, "end": 7, "score": 0.8}
    sure = {"label": "T", "score": 0.9}
    cases: list[tuple[list[str], str, dict[str, Any], str]] = [
        (["Ada L."], "token-classification", {"spans": [span]}, "PER Ada  0.910"),
        (["Ada"], "token-classification", {"spans": []}, "no spans"),
        (
            ["--question", "q", "--context", "is here"],
            "question-answering",
            {"answer": answer, "no_answer_score": 0.1, "answers": [answer]},
            "here  0.800",
        ),
        (
            ["--question", "q", "--context", "c"],
            "question-answering",
            {"answer": None, "no_answer_score": 0.7, "answers": []},
            "no answer",
        ),
        (
            ["--question", "q", "--context", "is here"],
            "question-answering",
            {"answer": None, "no_answer_score": 0.01, "answers": [answer]},
            "no answer\nnearest to one: here  0.800",
        ),
        (["t", "--choice", "x", "--choice", "y"], "multiple-choice", {"choice": 1, "scores": [0.2, 0.8]}, "0.800  y"),
        (["t"], "text-classification", {"labels": [], "scores": [{"label": "joy", "score": 0.1}]}, "no label over"),
        (["t"], "text-classification", {"value": 3.25, "truncated": True}, "cut short"),
        (["t"], "text-embedding", {"embedding": [0.25] * 384}, "384 values  0.2500 0.2500"),
        (["t"], "text-classification", {"judged": [{"text": "yes it is", **sure, "scores": [sure]}]}, "T: yes it is"),
        (["t"], "text-classification", {"entity": "T", "score": 0.9, "entities": [sure]}, "0.900  T"),
    ]
    for args, task, output, expected in cases:
        script.queue(wire.prediction(output, task=task))
        result = run("predict", "intent", *args)
        assert (result.exit_code, expected in result.stdout) == (0, True), result.output


def test_what_a_server_sends_cannot_steer_the_terminal(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("\x1b[2Jevil[bold]")))
    result = run("predict", "intent", "hi")
    assert "\x1b" not in result.stdout
    assert "evil[bold]" in result.stdout


def test_a_failed_input_is_exit_code_1(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pos"), wire.failed()))
    result = run("predict", "intent", "a", "")
    assert result.exit_code == 1
    assert "empty_input: the text is empty" in result.stdout
    script.queue(wire.problem(422, "all_inputs_failed", errors=[wire.failed()["error"]]))
    assert run("predict", "intent", "").exit_code == 1


@pytest.mark.parametrize(
    ("status", "code"), [(400, 4), (401, 4), (404, 4), (422, 4), (429, 4), (500, 5), (503, 5), (507, 5)]
)
def test_exit_codes_by_status(run: Run, script: Any, wire: Any, status: int, code: int) -> None:
    script.queue(*[wire.problem(status, "some_code")] * 3)
    result = run("show", "intent")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"Error: some_code: seen x, allowed y (code some_code, status {status}, request req-9)\n"


def test_no_answer_is_exit_code_3(run: Run, script: Any) -> None:
    script.queue(*[httpx2.ConnectError("refused")] * 3)
    result = run("list", "--json")
    assert result.exit_code == 3
    assert "is the server running" in result.stderr


def test_a_file_of_lines(run: Run, script: Any, wire: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    lines = ['"a"', "broken", '{"id": 7, "inputs": ""}', "", '{"text": "b", "text_pair": "c"}', "{"]
    file.write_text("\n".join(lines))
    script.queue(wire.prediction(wire.label("x"), wire.failed(), wire.label("y")))
    result = run("predict", "intent", "--file", str(file), "--json")
    assert result.exit_code == 1
    assert json.loads(script.requests[0].content)["inputs"] == ["a", "", {"text": "b", "text_pair": "c"}]
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["index"] for answer in answers] == [0, 1, 2, 4, 5]
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        None,
        "malformed_json",
        "empty_input",
        None,
        "malformed_json",
    ]
    assert answers[2]["id"] == 7
    assert answers[1]["error"]["message"].startswith("line 2 is no JSON (Expecting value, column 1): write one input")


def test_lines_from_stdin_for_people(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("x")))
    result = run("predict", "intent", "--file", "-", stdin='"a"\n')
    assert result.exit_code == 0
    assert result.stdout.startswith("[0]")


def test_list_and_show(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.page([wire.summary("intent"), wire.summary("ner")]))
    assert "ner" in run("list").stdout
    script.queue(wire.page([wire.summary("intent"), wire.summary("ner")], "more"))
    assert [item["name"] for item in json.loads(run("list", "--limit", "1", "--json").stdout)["data"]] == ["intent"]
    script.queue(wire.page([]))
    assert "no adapters yet" in run("list", "--tenant", "acme").stdout
    assert script.requests[-1].url.params["tenant"] == "acme"
    script.queue(wire.detail(), wire.detail())
    assert "intent@3" in run("show", "intent").stdout
    assert json.loads(run("show", "intent", "--json").stdout)["max_tokens"] == 120


def test_list_of_versions(run: Run, script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [{"name": name, "value": 0.9303, "dataset": "clinc150"} for name in ("accuracy", "macro_f1")]
    versions = [wire.version(2) | {"metrics": claims, "aliases": ["latest", "production"]}, wire.version(1)]
    script.queue(wire.page(versions), wire.page(versions[:1], "2"), wire.page(versions[1:]))
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("list", "intent").stdout
    assert script.requests[0].url.path == "/admin/v1/adapters/intent/versions"
    for claim in ("clinc150 accuracy 0.9303", "clinc150 macro_f1 0.9303"):
        assert claim in shown, "a claim stands in one line of a terminal of 80 columns"
    assert wire.version()["digest"][:12] in shown
    listed = json.loads(run("list", "intent", "--json").stdout)["data"]
    assert [version["version"] for version in listed] == [2, 1]


def test_push_takes_the_manifests_name(run: Run, script: Any, wire: Any, bundle: Path) -> None:
    script.queue(httpx2.Response(201, json=wire.version(4)), httpx2.Response(200, json=wire.version(4, is_new=False)))
    assert json.loads(run("push", str(bundle), "--json").stdout)["version"] == 4
    result = run("push", str(bundle), "other")
    assert "intent@4 was there already" in result.stdout
    paths = [request.url.path for request in script.requests]
    assert paths == ["/admin/v1/adapters/intent/versions", "/admin/v1/adapters/other/versions"]


def test_push_of_something_else(run: Run, tmp_path: Path) -> None:
    result = run("push", str(tmp_path))
    assert result.exit_code == 1
    assert "has no adapter.json and no adapter.safetensors" in result.stderr
    assert f"there is no folder {tmp_path / 'nowhere'}: give" in run("push", str(tmp_path / "nowhere")).stderr


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    result = run("predict", "intent", "--file", str(tmp_path / "nope.jsonl"))
    assert result.exit_code == 2
    assert f"nope.jsonl: No such file or directory; check the path, here seen from {Path.cwd()}" in result.stderr


def test_pull_refuses_to_replace(run: Run, bundle: Path) -> None:
    result = run("pull", "intent", str(bundle))
    assert result.exit_code == 2
    assert "already has" in result.stderr


def test_promote_and_rollback(run: Run, script: Any, wire: Any) -> None:
    script.queue(wire.alias(1), wire.alias(7, previous=1))
    assert json.loads(run("promote", "intent@7", "--json").stdout)["version"] == 7
    assert json.loads(script.requests[1].content) == {"version": 7}
    script.queue(wire.detail(), wire.problem(404, "alias_not_found"), wire.alias(3))
    assert "is now version 3" in run("promote", "intent").stdout
    assert script.requests[2].url.path == "/v1/adapters/intent@latest"
    script.queue(wire.alias(1, previous=7))
    assert "is now version 1 (before: 7)" in run("rollback", "intent").stdout


def test_promote_shows_claims_as_claims(run: Run, script: Any, wire: Any) -> None:
    claim = {"requirement": "wnut17:span_f1>=0.5", "name": "span_f1", "value": 0.53, "dataset": "wnut17"}
    script.queue(wire.alias(1), wire.alias(7, previous=1, claims=[claim]))
    shown = run("promote", "intent@7", "--require", "wnut17:span_f1>=0.5", "--require", "f1<1").stdout
    assert "is now version 7" in shown
    assert "uploader's claim: span_f1 0.53 on wnut17 (dev)" in shown
    assert json.loads(script.requests[1].content)["require"] == ["wnut17:span_f1>=0.5", "f1<1"]
    script.queue(wire.alias(1), wire.problem(412, "requirement_not_met"))
    refused = run("promote", "intent@7", "--require", "f1>=0.9")
    assert refused.exit_code == 4
    assert "code requirement_not_met" in refused.stderr


def test_delete_asks_first(run: Run, script: Any) -> None:
    assert run("delete", "intent@2", stdin="n\n").exit_code == 1
    assert script.requests == []
    script.queue(httpx2.Response(204), httpx2.Response(204))
    assert run("delete", "intent@2", stdin="y\n").exit_code == 0
    assert json.loads(run("delete", "intent", "--yes", "--json").stdout) == {"deleted": "intent"}
    paths = [request.url.path for request in script.requests]
    assert paths == ["/admin/v1/adapters/intent/versions/2", "/admin/v1/adapters/intent"]


def test_keys(run: Run, script: Any, wire: Any) -> None:
    key = {"id": "k1", "tenant": "default", "scopes": ["predict"], "created_at": "now"}
    script.queue(httpx2.Response(201, json=key | {"secret": "pr_k1_s"}), wire.page([key]), httpx2.Response(204))
    assert json.loads(run("keys", "create", "--scope", "predict", "--json").stdout)["secret"] == "pr_k1_s"
    assert "k1" in run("keys", "list").stdout
    assert "k1 is revoked" in run("keys", "revoke", "k1").stdout


def test_a_key_is_rotated(run: Run, script: Any) -> None:
    key = {"id": "k2", "tenant": "default", "scopes": ["predict"], "created_at": "now", "replaces": "k1"}
    script.queue(*[httpx2.Response(201, json=key | {"secret": "pr_k2_s"})] * 2)
    shown = run("keys", "rotate", "k1").stdout
    assert "pr_k2_s" in shown
    assert "prefixrack keys revoke k1" in shown
    assert "keys revoke" not in run("keys", "rotate", "k1", "--overlap-s", "60").stdout
    assert [json.loads(request.content) for request in script.requests] == [{}, {"overlap_s": 60.0}]
    assert {request.url.path for request in script.requests} == {"/admin/v1/keys/k1/rotate"}


@pytest.mark.parametrize("width", ["80", "120"])
def test_a_narrow_terminal_hides_nothing(run: Run, script: Any, wire: Any, width: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", width)
    scopes = ["adapters:read", "adapters:write", "alias:promote", "predict"]
    key = {
        "id": "0123456789ab",
        "name": "billing, nightly",
        "tenant": "default",
        "scopes": scopes,
        "created_at": "2030",
    }
    script.queue(wire.page([key]))
    shown = run("keys", "list").stdout
    assert max(map(len, shown.splitlines())) <= int(width)
    assert "…" not in shown
    assert "0123456789ab" in shown, "an id is copied in one piece"
    for word in ("billing", "nightly", *scopes):
        assert word in shown


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ({"before": {"version": 1}, "after": {"version": 2}}, "version 1 → 2"),
        ({"before": {"version": 2, "shadow_version": 3}, "after": {"version": 2}}, "shadow_version 3 → nothing"),
        ({"before": [], "after": ["f1>=0.9"]}, "nothing → f1>=0.9"),
        ({"before": None, "after": {"version": 1}}, "version 1"),
        ({"keep": True, "digest": "d"}, "keep True"),
        ({"after": {"scopes": ["admin"], "adapters": [], "quotas": {"max_bytes": None}}}, "scopes admin"),
        (
            {"before": {}, "after": {"canary": {"version": 3, "digest": "d", "share": 0.1}}},
            "canary version 3 share 0.1",
        ),
        ({}, ""),
    ],
)
def test_the_audit_log_says_what_was_changed(
    run: Run, script: Any, wire: Any, detail: Any, shown: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    line = {"id": 7, "at": "2030-01-31T12:30:15.000Z", "tenant": "acme", "key_id": "k1", "action": "x", "target": "t"}
    script.queue(wire.page([line | {"detail": detail}]))
    _, head, *change = [line.strip() for line in run("tenants", "audit").stdout.splitlines()]
    assert head == "2030-01-31 12:30:15  x t by k1"
    assert change == ([shown] if shown else [])
    script.queue(wire.page([line | {"key_name": "nightly"}]))
    assert "x t by nightly (k1)" in run("tenants", "audit").stdout


TENANT = {
    "name": "acme",
    "weight": 2.0,
    "quotas": {"requests_per_minute": None, "tokens_per_minute": 9, "max_adapters": None, "max_bytes": None},
    "adapters": ["a.*"],
    "created_at": "now",
    "disabled_at": None,
}


def body_of(request: httpx2.Request) -> Any:
    return json.loads(request.content)


def test_tenants(run: Run, script: Any, wire: Any) -> None:
    script.queue(
        *(httpx2.Response(200, json=TENANT | {"stored": {"num_adapters": 3, "num_bytes": 12}}) for _ in range(5))
    )
    options = ["--weight", "2", "--quota", "tokens_per_minute=9", "--quota", "max_bytes=none", "--adapter", "a.*"]
    assert "tokens_per_minute=9" in run("tenants", "create", "acme", *options).stdout
    assert "3 adapters, 12 B" in run("tenants", "show", "acme").stdout
    assert json.loads(run("tenants", "update", "acme", "--every-adapter", "--json").stdout)["name"] == "acme"
    run("tenants", "disable", "acme")
    run("tenants", "enable", "acme")
    sent = [(request.method, request.url.path) for request in script.requests]
    one = "/admin/v1/tenants/acme"
    assert sent == [("POST", "/admin/v1/tenants"), ("GET", one), ("PATCH", one), ("PATCH", one), ("PATCH", one)]
    bodies = [body_of(request) for request in script.requests if request.method != "GET"]
    quotas = {"tokens_per_minute": 9, "max_bytes": None}
    assert bodies == [
        {"name": "acme", "weight": 2.0, "quotas": quotas, "adapters": ["a.*"]},
        {"adapters": []},
        {"disabled": True},
        {"disabled": False},
    ]


def test_lists_of_tenants_usage_and_audit(run: Run, script: Any, wire: Any) -> None:
    used = {"tenant": "acme", "day": "2030-01-01", "adapter": "intent", "requests": 1, "rows": 2, "tokens": 3}
    change = {"id": 7, "at": "now", "tenant": "acme", "key_id": "k1", "action": "key.create", "target": "k2"}
    script.queue(wire.page([TENANT]), wire.page([used]), wire.page([used]), wire.page([change], "7"))
    assert "acme" in run("tenants", "list").stdout
    assert "intent" in run("tenants", "usage", "acme", "--since", "2030-01-01").stdout
    csv = run("tenants", "usage", "--csv").stdout.splitlines()
    assert csv == ["tenant,day,adapter,requests,rows,tokens", "acme,2030-01-01,intent,1,2,3"]
    assert "key.create" in run("tenants", "audit", "acme", "--action", "key.", "--limit", "1").stdout
    queries = [dict(request.url.params) for request in script.requests]
    assert queries == [
        {},
        {"tenant": "acme", "since": "2030-01-01"},
        {},
        {"tenant": "acme", "action": "key.", "limit": "1"},
    ]


@pytest.mark.parametrize(
    "args",
    [
        ("create", "acme", "--quota", "max_bytes"),
        ("create", "acme", "--quota", "max_byte=1"),
        ("update", "acme", "--quota", "max_bytes=-1"),
        ("update", "acme", "--adapter", "a", "--every-adapter"),
        ("usage", "--csv", "--json"),
    ],
)
def test_tenants_that_cannot_be_meant(run: Run, script: Any, args: tuple[str, ...]) -> None:
    assert run("tenants", *args).exit_code == 2
    assert script.requests == []


def test_keys_of_another_tenant(run: Run, script: Any, wire: Any) -> None:
    key = {"id": "k1", "tenant": "acme", "scopes": ["predict"], "adapters": ["a.*"], "created_at": "now"}
    script.queue(httpx2.Response(201, json=key | {"secret": "pr_k1_s"}), wire.page([key]), httpx2.Response(204))
    made = run("keys", "create", "--tenant", "acme", "--adapter", "a.*", "--scope", "predict").stdout
    assert "pr_k1_s" in made
    assert body_of(script.requests[0]) == {"scopes": ["predict"], "adapters": ["a.*"], "tenant": "acme"}
    assert "a.*" in run("keys", "list", "--tenant", "acme").stdout
    assert run("keys", "revoke", "k1", "--tenant", "acme").exit_code == 0
    assert [dict(request.url.params) for request in script.requests[1:]] == [{"tenant": "acme"}] * 2


def test_whoami(run: Run, script: Any) -> None:
    found = {
        "tenant": "acme",
        "key_id": "k1",
        "key_name": "nightly",
        "authenticated_by": "key",
        "scopes": ["adapters:read", "predict"],
        "adapter_patterns": [["a.*", "b"], ["team-*"]],
        "quotas": {"requests_per_minute": 60},
    }
    script.queue(httpx2.Response(200, json=found), httpx2.Response(200, json=found))
    shown = run("whoami").stdout
    for text in ("acme", "k1", "nightly", "adapters:read, predict", "a.*, b and team-*", "requests_per_minute=60"):
        assert text in shown
    assert json.loads(run("whoami", "--json").stdout)["key_name"] == "nightly"
    assert script.requests[0].url.path == "/v1/whoami"


def test_whoami_without_keys(run: Run, script: Any) -> None:
    everybody = {"tenant": "default", "key_id": "none", "authenticated_by": "none", "scopes": ["admin"]}
    script.queue(httpx2.Response(200, json=everybody))
    shown = run("whoami").stdout
    assert "asks for no keys" in shown
    assert "all names" in shown


def test_the_key_option_and_the_environment(run: Run, script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIXRACK_API_KEY", "pr_env_1")
    monkeypatch.setenv("PREFIXRACK_BASE_URL", "http://elsewhere:9")
    script.queue(wire.page([]), wire.page([]))
    run("list")
    run("--api-key", "pr_arg_1", "--base-url", "http://third", "list")
    first, second = script.requests
    assert (first.url.host, first.headers["authorization"]) == ("elsewhere", "Bearer pr_env_1")
    assert (second.url.host, second.headers["authorization"]) == ("third", "Bearer pr_arg_1")


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout.startswith("prefixrack ")
    result = run("--help")
    assert result.exit_code == 0
    for name in (
        "push",
        "pull",
        "list",
        "show",
        "predict",
        "promote",
        "canary",
        "shadow",
        "gates",
        "rollback",
        "delete",
        "keys",
        "tenants",
        "doctor",
    ):
        assert name in result.stdout


class TestDoctor:
    def test_all_is_well(self, run: Run, script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = ["pytest>=8; extra == 'dev'", "no-such-package; extra == 'gpu'", "pydantic>=2"]
        monkeypatch.setattr(doctor, "requires_of_distribution", lambda: lines)
        script.queue(httpx2.Response(200), httpx2.Response(200), wire.page([wire.summary()]))
        result = run("doctor", "--json")
        assert result.exit_code == 0
        states = {check["name"]: check["state"] for check in json.loads(result.stdout)["checks"]}
        expected = {"python": "ok", "prefixrack": "ok", "extra dev": "ok", "extra gpu": "missing"}
        assert states == expected | {"server": "ok", "key": "ok"}

    def test_no_server(self, run: Run, script: Any) -> None:
        script.queue(httpx2.ConnectError("refused"))
        result = run("doctor")
        assert result.exit_code == 3
        assert "failed" in result.stdout

    def test_wrong_key(self, run: Run, script: Any, wire: Any) -> None:
        script.queue(httpx2.Response(200), httpx2.Response(200), wire.problem(401, "invalid_key"))
        result = run("doctor")
        assert result.exit_code == 4
        assert "PREFIXRACK_API_KEY" in result.stdout

    def test_a_key_without_the_scope_is_still_a_key(self, run: Run, script: Any, wire: Any) -> None:
        script.queue(httpx2.Response(200), httpx2.Response(200), wire.problem(403, "forbidden"))
        assert run("doctor").exit_code == 0

    def test_server_that_is_not_ready(self, run: Run, script: Any, wire: Any) -> None:
        script.queue(httpx2.Response(200), wire.problem(503, "not_ready"), wire.page([]))
        assert run("doctor").exit_code == 5

    def test_extras_of_requirement_lines(self) -> None:
        lines = [
            'torch>=2.11; extra == "train"',
            "prefixrack[train]; extra == 'demo'",
            'uvicorn[standard]>=0.3; python_version >= "3.11" and extra == "server"',
            "httpx2>=2",
        ]
        assert doctor.packages_by_extra(lines) == {"train": ["torch"], "server": ["uvicorn"]}

    def test_what_an_included_extra_brings_is_said_once(
        self, run: Run, script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packages = {"base": ["pydantic"], "more": ["pydantic", "rich"], "gpu": ["no-such"], "all": ["no-such", "rich"]}
        lines = [f"{package}; extra == '{extra}'" for extra, names in packages.items() for package in names]
        monkeypatch.setattr(doctor, "requires_of_distribution", lambda: lines)
        script.queue(httpx2.Response(200), httpx2.Response(200), wire.page([]))
        checks = json.loads(run("doctor", "--json").stdout)["checks"]
        details = {check["name"].removeprefix("extra "): (check["state"], check["detail"]) for check in checks}
        assert details["more"] == ("ok", f"base, rich {metadata.version('rich')}")
        assert details["gpu"] == ("missing", "without no-such: pip install 'prefixrack[gpu]'")
        assert details["all"] == ("missing", "without what gpu needs: pip install 'prefixrack[all]'")


PLUGIN = '''
import typer
from typing import Annotated

def hello(name: str, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
    """Say hello."""
    print("HELLO" if loud else "hello", name)
    if name == "nobody":
        raise typer.Exit(5)

def late() -> None:
    import no_such_module_at_all
'''


class TestPlugins:
    @pytest.fixture(autouse=True)
    def _entry_points(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "greeting_for_tests.py").write_text(PLUGIN)
        (tmp_path / "needy_for_tests.py").write_text("import no_such_module_anywhere\n")
        monkeypatch.syspath_prepend(tmp_path)
        entries = [
            EntryPoint("hello", "greeting_for_tests:hello", plugins.GROUP),
            EntryPoint("needy", "needy_for_tests:serve", plugins.GROUP),
            EntryPoint("serve", "prefixrack_server.no_such_module:serve", plugins.GROUP),
            EntryPoint("late", "greeting_for_tests:late", plugins.GROUP),
            EntryPoint("list", "greeting_for_tests:hello", plugins.GROUP),
        ]
        monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
        monkeypatch.delitem(sys.modules, "greeting_for_tests", raising=False)

    def test_help_lists_them_without_importing(self, run: Run) -> None:
        result = run("--help")
        assert "Run a server. Needs the extra `server`." in result.stdout
        assert "Added by greeting_for_tests." in result.stdout
        assert "greeting_for_tests" not in sys.modules

    def test_arguments_and_exit_code_pass_through(self, run: Run) -> None:
        result = run("hello", "--loud", "Ada")
        assert (result.exit_code, result.stdout) == (0, "HELLO Ada\n")
        assert run("hello", "nobody").exit_code == 5

    def test_usage_errors_and_help_are_the_commands_own(self, run: Run) -> None:
        assert run("hello", "--quiet").exit_code == 2
        assert "--loud" in run("hello", "--help").stdout

    def test_own_commands_come_first(self, run: Run, script: Any, wire: Any) -> None:
        script.queue(wire.page([]))
        assert "no adapters yet" in run("list").stdout

    def test_a_missing_extra_names_the_line_that_installs_it(self, run: Run) -> None:
        result = run("serve", "--port", "1")
        assert result.exit_code == 2
        assert "pip install 'prefixrack[server]'" in " ".join(result.stderr.split())

    @pytest.mark.parametrize(
        ("name", "module", "extra"),
        [
            ("demo", "prefixrack_server.demo:demo", "demo"),
            ("import", "prefixrack_adapters.commands.import_bundle:import_bundle", "adapters"),
            ("train", "prefixrack_adapters.commands.train:train", "train"),
        ],
    )
    def test_each_command_names_its_own_extra(self, name: str, module: str, extra: str) -> None:
        plugin = plugins.Plugin(EntryPoint(name, module, plugins.GROUP))
        assert plugin.install_line == f"pip install 'prefixrack[{extra}]'"
        assert f"`{extra}`" in plugin.summary

    def test_a_module_missing_at_run_time_is_told_alike(self, run: Run) -> None:
        result = run("late")
        assert result.exit_code == 2
        assert "no_such_module_at_all" in result.stderr

    def test_a_missing_package_of_an_unknown_one(self, run: Run) -> None:
        assert "no_such_module_anywhere" in run("needy").stderr

    def test_a_typer_app_may_be_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = typer.Typer()
        app.command("inner")(lambda: None)
        plugin = plugins.Plugin(EntryPoint("x", "y:z", plugins.GROUP))
        monkeypatch.setattr(EntryPoint, "load", lambda _self: app)
        assert plugin.load().name == "inner"


def test_a_file_is_mapped_into_a_file(run: Run, script: Any, wire: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("note\nhi\n")
    script.queue(wire.detail(), wire.prediction(wire.label("pos")))
    result = run("predict", "intent", "--file", str(source), "-o", str(target), "--column", "note")
    assert result.exit_code == 0, result.output
    assert "1 inputs by intent@3, 0 failed" in result.stdout
    assert json.loads(target.read_text())["output"]["label"] == "pos"
    for args in (["hi", "-o", "x.jsonl"], ["--file", str(source), "-o", "out.txt"]):
        assert run("predict", "intent", *args).exit_code == 2
