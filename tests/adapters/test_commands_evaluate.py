"""`prefixrack evaluate` as a shell calls it: scores, comparison, writing, pictures, and measuring through a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import typer
from typer.testing import CliRunner

from prefixrack.cli.session import Session
from prefixrack.types import Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.bundle import bundle_digest
from prefixrack_adapters.commands.evaluate import evaluate
from prefixrack_adapters.manifest import parse_manifest
from prefixrack_adapters.prediction import predict
from synthetic import alike, number, several, single, tags, write_data
from tiny import write_random_bundle

URL = "http://rack.example:8080"
Run = Callable[..., Any]


class FakeRack:
    """Answers as a server does, from bundles on this machine. It takes at most `most_inputs` inputs at once."""

    most_inputs = 16

    def __init__(self, backbone: Backbone, bundles: dict[str, Path]) -> None:
        self.backbone = backbone
        self.adapters = {name: Adapter.load(folder) for name, folder in bundles.items()}
        self.predicted: list[tuple[str, dict[str, Any]]] = []

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.host == "rack.example"
        if request.method == "GET":
            return self.show(request.url.path.rsplit("/", 1)[1].partition("@")[0])
        return self.predict(request.url.path.split("/")[2], json.loads(request.content))

    def show(self, name: str) -> httpx2.Response:
        if name not in self.adapters:
            return problem(404, "adapter_not_found")
        manifest = self.adapters[name].manifest
        facts = {"name": name, "task": manifest.task, "version": 7, "digest": "d" * 64, "labels": manifest.labels}
        rest = {"aliases": {"latest": 7}, "num_versions": 7, "created_at": "2026-11-22T10:00:00Z", "example": "x"}
        usage = {"input_schema": {}, "max_tokens": 120, "prefix_len": 4, "problem": manifest.decoding.problem}
        return httpx2.Response(200, json=facts | rest | usage)

    def predict(self, ref: str, body: dict[str, Any]) -> httpx2.Response:
        inputs, parameters = body["inputs"], body.get("parameters", {})
        if len(inputs) > self.most_inputs:
            return problem(413, "too_many_inputs")
        self.predicted.append((ref, parameters))
        adapter = self.adapters[ref.partition("@")[0]]
        outputs = predict(self.backbone, adapter, inputs, Parameters(**parameters), 4096)
        answer = {
            "id": "req-1",
            "adapter": {"name": adapter.manifest.name, "version": 7, "digest": "d" * 64},
            "task": adapter.manifest.task,
            "outputs": [output.model_dump(mode="json") for output in outputs],
            "usage": {"tokens": 1, "rows": 1, "truncated": 0},
            "timings_ms": {},
        }
        return httpx2.Response(200, json=answer)


def problem(status: int, code: str) -> httpx2.Response:
    fields = {
        "title": "x",
        "status": status,
        "detail": f"refused: {code}",
        "code": code,
        "request_id": "r",
        "error": "x",
    }
    return httpx2.Response(status, json=fields)


@pytest.fixture
def bundles(backbone: Backbone, tmp_path: Path) -> dict[str, Path]:
    """Random adapters; the second one for cats and dogs has other weights."""
    labels: dict[str, Any] = {"labels": ("cat", "dog")}
    tagging: dict[str, Any] = {"task": "token-classification", "labels": ("O", "B-loc", "B-per")}
    return {
        name: write_random_bundle(tmp_path / name, backbone.spec, seed, name=name, **options)
        for name, seed, options in (("one", 0, labels), ("two", 1, labels), ("tagger", 0, tagging))
    }


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    return {
        "single": str(write_data(tmp_path / "single", single, num_train=1, num_dev=40)[1]),
        "tags": str(write_data(tmp_path / "tags", tags, num_train=1, num_dev=10)[1]),
        "several": str(write_data(tmp_path / "several", several, num_train=1, num_dev=10)[1]),
        "number": str(write_data(tmp_path / "number", number, num_train=1, num_dev=10)[1]),
    }


@pytest.fixture
def run(backbone_folder: Path) -> Run:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)

    def invoke(ref: Any, data: str, *options: str, session: Session | None = None) -> Any:
        where = [] if session is not None else ["--backbone", str(backbone_folder), "--device", "cpu"]
        arguments = [str(ref), "--data", data, *where, *options]
        return CliRunner().invoke(app, arguments, obj=session, env={"COLUMNS": "160"})

    return invoke


@pytest.fixture
def rack(backbone: Backbone, bundles: dict[str, Path]) -> FakeRack:
    return FakeRack(backbone, bundles)


@pytest.fixture
def session(rack: FakeRack) -> Session:
    return Session(transport=httpx2.MockTransport(rack.respond), sleep=lambda seconds: None)


def as_json(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def test_the_tables(run: Run, bundles: dict[str, Path], data: dict[str, str]) -> None:
    result = run(bundles["one"], data["single"])
    assert "does not have" not in result.stderr
    measured = as_json(run(bundles["one"], data["single"], "--json"))
    low, high = measured["intervals"]["accuracy"]
    assert low <= measured["scores"]["accuracy"] <= high
    lines = [line.split() for line in result.stdout.replace("│", " ").splitlines()]
    value, bare = measured["scores"]["accuracy"], measured["without_prefix"]["accuracy"]
    assert ["accuracy", f"{value:.4f}", f"{low:.4f}", "to", f"{high:.4f}", f"{bare:.4f}"] in lines
    classes = measured["classes"]
    assert [one["name"] for one in classes] == sorted(("cat", "dog"), key=lambda name: -support_of(classes, name))
    for one in classes:
        shares = [f"{one[name]:.4f}" for name in ("precision", "recall", "f1")]
        assert [one["name"], *shares, str(one["support"]), str(one["num_predicted"])] in lines
    assert measured["confusion"]["labels"] == ["cat", "dog"]
    assert sum(map(sum, measured["confusion"]["counts"])) == measured["num_examples"] == 40
    assert measured["digest"] is None


def support_of(classes: list[dict[str, Any]], name: str) -> int:
    return next(int(one["support"]) for one in classes if one["name"] == name)


def test_a_long_list_of_classes_is_shortened_with_a_note(run: Run, bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": "cat", "label": f"label {number}"}) + "\n" for number in range(24)))
    num_classes = len(as_json(run(bundles["one"], str(path), "--json"))["classes"])
    assert num_classes == 25  # and the one that is answered
    result = run(bundles["one"], str(path))
    shown = result.stdout
    assert (
        "one does not have these labels of the data, and gets them wrong: label 0, label 1, label 10," in result.stderr
    )
    assert shown.count("label ") == 20
    assert "and 5 smaller classes: --json has all of them" in shown


def test_inputs_that_fail_are_told(run: Run, bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "cat", "label": "cat"}\n{"text": "\\ud800", "label": "cat"}\n')
    shown = run(bundles["one"], str(path)).stdout
    assert "2 examples, 1 of them failed and count as wrong" in shown


def test_two_bundles_are_compared(run: Run, bundles: dict[str, Path], data: dict[str, str]) -> None:
    options = ("--against", str(bundles["two"]))
    measured = as_json(run(bundles["one"], data["single"], *options, "--json"))
    comparison, other = measured["comparison"], measured["against"]
    assert other["scores"] == as_json(run(bundles["two"], data["single"], "--json"))["scores"]
    assert comparison["difference"] == measured["scores"]["accuracy"] - other["scores"]["accuracy"]
    assert comparison["interval"][0] <= comparison["difference"] <= comparison["interval"][1]
    assert measured["without_prefix"] == {}
    shown = run(bundles["one"], data["single"], *options).stdout
    assert comparison["in_words"] in shown
    assert f"difference of accuracy: {comparison['difference']:+.4f}, 95 % interval" in shown
    assert f"McNemar's exact test, answers right as a whole: p = {comparison['mcnemar_p_value']:.3f}" in shown


def test_bundles_of_other_tasks_are_not_compared(run: Run, bundles: dict[str, Path], data: dict[str, str]) -> None:
    result = run(bundles["one"], data["single"], "--against", str(bundles["tagger"]))
    assert result.exit_code == 2
    assert "compare adapters of the same task" in result.stderr


def test_scores_are_written_where_that_is_asked_for(run: Run, bundles: dict[str, Path], data: dict[str, str]) -> None:
    options = ("--write", "--dataset", "marks", "--split", "test", "--json")
    measured = as_json(run(bundles["one"], data["single"], *options))
    assert measured["digest"] == bundle_digest(bundles["one"])
    metrics = parse_manifest((bundles["one"] / "adapter.json").read_bytes()).metrics
    assert {one.name: one.value for one in metrics} == pytest.approx(measured["scores"], abs=1e-4)
    assert {(one.dataset, one.split, one.num_examples) for one in metrics} == {("marks", "test", 40)}
    shown = run(bundles["one"], data["single"], "--write").stdout
    assert f"digest is now {bundle_digest(bundles['one'])}" in shown
    metrics = parse_manifest((bundles["one"] / "adapter.json").read_bytes()).metrics
    assert [(one.dataset, one.split) for one in metrics] == [("marks", "test")] * 2 + [("dev.jsonl", "dev")] * 2


def test_the_confusion_matrix_is_drawn(
    run: Run, bundles: dict[str, Path], data: dict[str, str], tmp_path: Path
) -> None:
    picture = tmp_path / "confusion.svg"
    assert run(bundles["one"], data["single"], "--confusion", str(picture)).exit_code == 0
    assert "one on dev.jsonl" in picture.read_text()


def test_what_was_answered_is_written(
    run: Run, bundles: dict[str, Path], data: dict[str, str], backbone: Backbone, tmp_path: Path
) -> None:
    """Of each example, in order, by both that are compared; what counts as right there adds up to the score."""
    written = tmp_path / "answers.jsonl"
    options = ("--against", str(bundles["two"]), "--predictions", str(written), "--json")
    measured = as_json(run(bundles["one"], data["single"], *options))
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    records = [json.loads(line) for line in Path(data["single"]).read_text().splitlines()]
    assert [(line["input"], line["target"]) for line in lines] == [(one["text"], one["label"]) for one in records]
    assert lines[2]["place"].endswith("dev.jsonl, line 3")
    for place, (name, part) in enumerate((("one", measured), ("two", measured["against"]))):
        answers = [line["answers"][place] for line in lines]
        assert {one["adapter"] for one in answers} == {name}
        assert sum(one["right"] for one in answers) / len(answers) == part["scores"]["accuracy"]
        texts = [line["input"] for line in lines]
        outputs: Sequence[Any] = predict(
            backbone, Adapter.load(bundles[name]), texts, Parameters(overlong="truncate"), 4096
        )
        assert [one["output"]["label"] for one in answers] == [output.label for output in outputs]


def test_an_output_for_each_text_of_a_pair_and_failures_are_written(
    run: Run, bundles: dict[str, Path], backbone: Backbone, tmp_path: Path
) -> None:
    written = tmp_path / "answers.jsonl"
    embedder = write_random_bundle(tmp_path / "embedder", backbone.spec, task="text-embedding", labels=())
    pairs = str(write_data(tmp_path / "pairs", alike, num_train=1, num_dev=3)[1])
    assert run(embedder, pairs, "--predictions", str(written)).exit_code == 0
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [[len(line["input"]), len(line["answers"][0]["output"])] for line in lines] == [[2, 2]] * 3
    assert all(set(line["target"]) == {"score"} and "right" not in line["answers"][0] for line in lines)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "cat é", "label": "cat"}\n{"text": "\\ud800", "label": "cat"}\n')
    assert run(bundles["one"], str(broken), "--predictions", str(written)).exit_code == 0
    assert '"input": "cat é"' in written.read_text()
    failed = json.loads(written.read_text().splitlines()[1])
    assert failed["input"] == "\ud800"
    assert failed["answers"][0]["right"] is False
    assert failed["answers"][0]["output"]["error"]["code"] == "invalid_unicode"
    reader = write_random_bundle(tmp_path / "reader", backbone.spec, task="question-answering", labels=())
    unanswered = tmp_path / "unanswered.jsonl"
    unanswered.write_text('{"question": "\\ud800", "context": "cat", "answers": []}\n')
    assert run(reader, str(unanswered), "--predictions", str(written)).exit_code == 0
    assert json.loads(written.read_text())["target"] == {"texts": [], "starts": []}


def test_predictions_that_cannot_be_written_are_told(
    run: Run, bundles: dict[str, Path], data: dict[str, str], tmp_path: Path
) -> None:
    refused = run(bundles["one"], data["single"], "--predictions", data["single"])
    assert refused.exit_code == 2
    assert "dev.jsonl is the data that is measured on: give another file as --predictions" in refused.stderr
    (tmp_path / "taken.jsonl").mkdir()
    result = run(bundles["one"], data["single"], "--predictions", str(tmp_path / "taken.jsonl"))
    assert result.exit_code == 2
    assert "taken.jsonl cannot be written (Is a directory): choose another place" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("name", "file", "options", "mentions"),
    [
        ("tagger", "tags", ["--confusion", "x.svg"], "has no confusion matrix"),
        ("one", "single", ["--confusion", "x.pdf"], "x.pdf is no .svg or .png"),
        ("one", "single", ["--predictions", "x.csv"], "x.csv is no .jsonl or .ndjson: name the file of predictions so"),
        ("one", "single", ["--predictions", "nowhere/x.jsonl"], "nowhere is no folder: make it first"),
        ("one", "single", ["--write", "--server", URL], "a version on a server never changes"),
        (
            "one",
            "single",
            ["--server", URL],
            "--backbone has no say with --server, which computes on its own: leave it",
        ),
        ("one", "single", ["--input-format", "srl"], "input format 'srl' is none of task 'text-classification'"),
        ("one", "single", ["--input-format", "boolq"], "no column 'question'"),
        ("one", "single", ["--against", "nowhere"], "nowhere"),
        (
            "one",
            "several",
            [],
            "dev.jsonl, line 1: the target is several labels, but the adapter answers with one label: ",
        ),
        ("one", "number", [], "the target is a number, but the adapter answers with one label: name the column that "),
    ],
)
def test_refusals(
    run: Run,
    bundles: dict[str, Path],
    data: dict[str, str],
    name: str,
    file: str,
    options: list[str],
    mentions: str,
) -> None:
    before = bundle_digest(bundles[name])
    result = run(bundles[name], data[file], *options)
    assert result.exit_code == 2
    assert mentions in result.stderr
    assert bundle_digest(bundles[name]) == before


def test_one_label_is_not_measured_as_several(
    run: Run, backbone: Backbone, data: dict[str, str], tmp_path: Path
) -> None:
    """Unless the user says that it is a list of one."""
    decoding = {"problem": "multi_label"}
    bundle = write_random_bundle(tmp_path / "several", backbone.spec, labels=("cat", "dog"), decoding=decoding)
    refused = run(bundle, data["single"])
    assert refused.exit_code == 2
    assert "answers with several labels: name the column that holds that with --column labels=…" in refused.stderr
    assert as_json(run(bundle, data["single"], "--column", "labels=label", "--json"))["main"] == "micro_f1"


def test_a_device_without_memory_is_spared(
    run: Run, bundles: dict[str, Path], data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that is too much is halved; a backbone that is, is told."""
    usual = as_json(run(bundles["one"], data["single"], "--json"))
    compute, load, sizes = Backbone.compute, Backbone.load, []

    def limited(backbone: Backbone, pack: Sequence[PackRow]) -> Any:
        sizes.append(len(pack))
        if len(pack) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(backbone, pack)

    monkeypatch.setattr(Backbone, "compute", limited)
    assert as_json(run(bundles["one"], data["single"], "--json"))["scores"] == usual["scores"]
    assert max(sizes) > 8

    def refused(*given: Any) -> Backbone:
        load(*given)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")

    monkeypatch.setattr(Backbone, "load", refused)
    result = run(bundles["one"], data["single"])
    assert result.exit_code == 2
    told = "no memory for the backbone and what is kept beside it (CUDA out of memory. Tried to allocate 2 GiB.): free"
    assert told in result.stderr


def test_a_plain_adapter_is_measured_on_a_data_sets_own_form(
    run: Run, bundles: dict[str, Path], tmp_path: Path
) -> None:
    own, plain = tmp_path / "own.jsonl", tmp_path / "plain.jsonl"
    words = [("cat", "the cat sat", "a cat"), ("dog", "a dog in rain", "the dog")]
    names = ("word", "sentence1", "sentence2")
    own.write_text("".join(json.dumps(dict(zip(names, one, strict=True), label="cat")) + "\n" for one in words))
    texts = [f"{first} {second} Does {word} have the same meaning in both sentences?" for word, first, second in words]
    plain.write_text("".join(json.dumps({"text": text, "label": "cat"}) + "\n" for text in texts))
    measured = as_json(run(bundles["one"], str(own), "--input-format", "wic", "--json"))
    assert measured["num_failed"] == 0
    assert measured["confusion"] == as_json(run(bundles["one"], str(plain), "--json"))["confusion"]


def test_forms_that_an_adapter_cannot_take(
    run: Run, bundles: dict[str, Path], backbone: Backbone, tmp_path: Path
) -> None:
    path = tmp_path / "multirc.jsonl"
    path.write_text('{"passage": "cat", "question": "who", "answers": [{"text": "dog", "label": 1}]}\n')
    refused = run(bundles["one"], str(path), "--input-format", "multirc")
    assert refused.exit_code == 2
    assert "input format 'multirc' makes no plain input" in refused.stderr
    judge = write_random_bundle(tmp_path / "judge", backbone.spec, input_format="multirc")
    assert as_json(run(judge, str(path), "--json"))["main"] == "f1a"
    pairs = tmp_path / "cb.jsonl"
    pairs.write_text('{"premise": "cat", "hypothesis": "dog", "label": "yes"}\n')
    refused = run(judge, str(pairs), "--input-format", "cb")
    assert refused.exit_code == 2
    assert "--input-format is 'cb', but the adapter's is 'multirc': leave it out" in refused.stderr


def test_an_adapter_is_measured_through_a_server(
    run: Run, bundles: dict[str, Path], data: dict[str, str], rack: FakeRack, session: Session
) -> None:
    served = as_json(run("one@production", data["single"], "--server", URL, "--json", session=session))
    local = as_json(run(bundles["one"], data["single"], "--json"))
    assert served["name"] == "one@7"
    assert served["without_prefix"] == {}
    for part in ("scores", "intervals", "classes", "confusion", "num_examples"):
        assert served[part] == local[part]
    assert {ref for ref, _ in rack.predicted} == {"one@7"}
    assert all(parameters == {"overlong": "truncate"} for _, parameters in rack.predicted)
    assert "one@7 on dev.jsonl" in run("one", data["single"], "--server", URL, session=session).stdout


def test_tags_are_measured_through_a_server(
    run: Run, bundles: dict[str, Path], data: dict[str, str], rack: FakeRack, session: Session
) -> None:
    served = as_json(run("tagger", data["tags"], "--server", URL, "--json", session=session))
    assert served["scores"] == as_json(run(bundles["tagger"], data["tags"], "--json"))["scores"]
    assert all(parameters == {} for _, parameters in rack.predicted)


def test_a_shell_that_knows_no_server_is_refused(run: Run, data: dict[str, str]) -> None:
    result = run("one", data["single"], "--server", URL, session=object())
    assert result.exit_code == 2
    assert "--server needs the key and the settings" in result.stderr


def test_two_served_adapters_are_compared(run: Run, data: dict[str, str], session: Session) -> None:
    result = run("one", data["single"], "--against", "two@3", "--server", URL, "--json", session=session)
    shown = as_json(result)
    assert (shown["name"], shown["against"]["name"]) == ("one@7", "two@7")
    assert shown["comparison"]["metric"] == "accuracy"
