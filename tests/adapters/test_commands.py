"""The commands `train`, `evaluate` and `import` as a shell calls them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from checkpoints import write_checkpoint
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import bundle_digest
from prefixrack_adapters.commands.evaluate import evaluate
from prefixrack_adapters.commands.import_bundle import import_bundle
from prefixrack_adapters.commands.train import (
    WHEN_IT_DOES_NOT_LEARN,
    portable_command,
    train,
    warn_of_what_was_not_learnt,
)
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.trainer import PromptTrainer
from synthetic import single, write_data
from tiny import write_random_bundle


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("import")(import_bundle)
    return app


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, str]:
    train_file, dev_file = write_data(tmp_path / "data", single, num_train=32, num_dev=10)
    return str(train_file), str(dev_file)


@pytest.fixture
def train_options(data: tuple[str, str], backbone_folder: Path, tmp_path: Path) -> list[str]:
    given = {
        "task": "text-classification",
        "train": data[0],
        "dev": data[1],
        "backbone": str(backbone_folder),
        "output": str(tmp_path / "my-adapter"),
        "epochs": "1",
        "prefix-len": "2",
        "device": "cpu",
    }
    return ["train", *(part for name, value in given.items() for part in (f"--{name}", value))]


def test_train_then_evaluate(app: typer.Typer, train_options: list[str], data: tuple[str, str], tmp_path: Path) -> None:
    trained = CliRunner().invoke(app, [*train_options, "--json"])
    assert trained.exit_code == 0, trained.output
    report = json.loads(trained.stdout)
    assert report["output"] == str(tmp_path / "my-adapter")
    assert report["scores"].keys() == {"accuracy", "macro_f1"}
    assert report["num_train"] == 32
    assert "epoch 1 of 1: dev accuracy" in trained.stderr
    assert json.loads((tmp_path / "my-adapter" / "adapter.json").read_text())["name"] == "my-adapter"

    backbone = train_options[train_options.index("--backbone") + 1]
    common = ["evaluate", str(tmp_path / "my-adapter"), "--data", data[1], "--backbone", backbone, "--device", "cpu"]
    evaluated = CliRunner().invoke(app, [*common, "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    measured = json.loads(evaluated.stdout)
    assert measured["scores"] == pytest.approx(report["scores"])
    assert measured["without_prefix"] == pytest.approx(report["without_prefix"])
    assert measured["num_examples"] == 10
    shown = CliRunner().invoke(app, common)
    assert f"{report['scores']['accuracy']:.4f}" in shown.stdout


def test_dev_inputs_go_into_the_bundle_only_where_that_is_asked_for(
    app: typer.Typer, train_options: list[str], data: tuple[str, str], tmp_path: Path
) -> None:
    manifest = tmp_path / "my-adapter" / "adapter.json"
    for options, count in (([], 0), (["--num-examples", "4", "--restart"], 4)):
        result = CliRunner().invoke(app, [*train_options, *options])
        assert result.exit_code == 0, result.output
        lines = Path(data[1]).read_text().splitlines()
        assert json.loads(manifest.read_text())["examples"] == [json.loads(line)["text"] for line in lines[:count]]
        shutil.rmtree(manifest.parent)
    result = CliRunner().invoke(app, [*train_options, "--num-examples", "65"])
    assert result.exit_code == 2
    assert "num_examples" in result.stderr


def test_scores_are_shown_as_a_table(app: typer.Typer, train_options: list[str]) -> None:
    result = CliRunner().invoke(app, [*train_options, "--name", "other"])
    assert result.exit_code == 0, result.output
    assert "other (p-tuning-v2) on dev" in result.stdout
    assert "macro_f1" in result.stdout
    assert re.search(
        r"^best epoch 1 of 1; trained parameters: [\d,]+, [\d.]+% of the backbone; \d+ s$", result.stdout, re.M
    )


def test_a_run_that_stops_early_says_so(app: typer.Typer, train_options: list[str]) -> None:
    """With a rate at which nothing changes no epoch is better than the first."""
    steady = ["--epochs", "9", "--patience", "1", "--learning-rate", "1e-9"]
    result = CliRunner().invoke(app, [*train_options, *steady])
    assert result.exit_code == 0, result.output
    assert "best epoch 1 of 2 (stopped there: dev got no better); trained" in result.stdout


@pytest.mark.parametrize("study", [[], ["--seeds", "1,2"], ["--sweep", "prefix_len=2,4"]])
def test_a_finished_bundle_is_replaced_only_where_that_is_asked_for(
    app: typer.Typer,
    train_options: list[str],
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    study: list[str],
) -> None:
    def no_step(*_: Any) -> None:
        raise AssertionError("a step was trained")

    folder: Any = write_random_bundle(tmp_path / "my-adapter", backbone.spec, labels=("cat", "dog"), name="old")
    before = bundle_digest(folder)
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "training_step", no_step)
        for wish in ([], ["--restart"], ["--resume"]):
            result = CliRunner().invoke(app, [*train_options, *study, *wish])
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"{folder} already holds the adapter 'old' (text-classification): give another" in result.stderr
    assert bundle_digest(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "my-adapter"]
    result = CliRunner().invoke(app, [*train_options, *study, "--overwrite"])
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "adapter.json").read_text())["name"] == "my-adapter"


def test_the_bundles_of_several_data_sets_are_not_replaced_unasked(
    app: typer.Typer, train_options: list[str], data: tuple[str, str], tmp_path: Path
) -> None:
    table = f'task = "text-classification"\ntrain = "{data[0]}"\ndev = "{data[1]}"\n'
    (tmp_path / "sets.toml").write_text(f"[one]\n{table}[two]\n{table}")
    options = [*train_options, "--method", "multitask", "--sets", str(tmp_path / "sets.toml")]
    for of_one in ("--train", "--dev"):
        place = options.index(of_one)
        del options[place : place + 2]
    assert CliRunner().invoke(app, options).exit_code == 0
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert (
        f"{tmp_path / 'my-adapter' / 'one'} already holds the adapter 'one' (text-classification, acc" in result.stderr
    )
    assert CliRunner().invoke(app, [*options, "--overwrite"]).exit_code == 0


def report_with(majority: float, bare: float | None) -> Report:
    without = {} if bare is None else {"accuracy": bare}
    numbers: dict[str, Any] = dict.fromkeys(("num_trained", "num_backbone", "num_train", "num_dev", "num_skipped"), 1)
    return Report(
        "accuracy", {"accuracy": 0.7}, {"accuracy": majority}, [0.7], 1, seconds=0, without_prefix=without, **numbers
    )


@pytest.mark.parametrize(
    ("majority", "bare", "rivals"),
    [
        (0.5, 0.6, ""),
        (0.5, None, ""),
        (0.7, 0.5, "the best constant answer"),
        (0.5, 0.7, "its head without the prefix"),
        (0.8, 0.7, "the best constant answer or its head without the prefix"),
    ],
)
def test_what_learnt_nothing_is_told(
    capsys: pytest.CaptureFixture[str], majority: float, bare: float | None, rivals: str
) -> None:
    warn_of_what_was_not_learnt("x", report_with(majority, bare))
    shown = capsys.readouterr().err
    assert shown == (f"x is no better than {rivals}: {WHEN_IT_DOES_NOT_LEARN}\n" if rivals else "")


def test_a_run_says_what_comes_next(app: typer.Typer, train_options: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*train_options, "--name", "other"])
    folder = tmp_path / "my-adapter"
    assert result.stdout.splitlines()[-4:] == [
        "Next:",
        f"  prefixrack evaluate {folder} --data test.jsonl --split test --write",
        f"  prefixrack push {folder} && prefixrack predict other@latest …",
        "  prefixrack promote other@latest",
    ]
    baseline = CliRunner().invoke(app, [*train_options, "--method", "head-only", "--output", str(tmp_path / "base")])
    assert baseline.exit_code == 0, baseline.output
    assert "Next" not in baseline.stdout


def test_a_study_prints_its_table(app: typer.Typer, train_options: list[str], tmp_path: Path) -> None:
    study = ["--seeds", "1,2", "--sweep", "learning-rate=1e-2", "--sweep", "method=p-tuning-v2,prompt-tuning"]
    study += ["--prefix-dropout", "0.1"]  # for one of the two methods
    result = CliRunner().invoke(app, [*train_options, *study, "--prefix-layers", "0"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    heading, _, first, second = (line.split() for line in result.stdout.splitlines()[2:6])
    assert heading == ["learning_rate", "method", "dev", "accuracy", "n", "trained"]
    table = json.loads((tmp_path / "my-adapter" / "study.json").read_text())
    mean, deviation = (table["combinations"][0][name] for name in ("mean", "deviation"))
    assert first[:6] == ["0.01", "p-tuning-v2", f"{mean:.4f}", "±", f"{deviation:.4f}", "2"]
    assert f"best: seed {table['best']['seed']}" in result.stdout
    assert second[:4] == ["0.01", "prompt-tuning", "–", "0"]
    assert "seed 1, 2 failed: prefix_layers was given, but method 'prompt-tuning'" in result.stdout
    assert "my-adapter (p-tuning-v2)" in result.stdout
    assert "run 4 of 4: failed: prefix_layers was given" in result.stderr


def test_a_study_as_json(app: typer.Typer, train_options: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*train_options, "--seeds", "1,2", "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown.pop("output") == [str(tmp_path / "my-adapter")]
    assert shown == json.loads((tmp_path / "my-adapter" / "study.json").read_text())


def test_the_help_shows_options_in_groups(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "100"}).stdout
    places = [shown.index(f"─ {group} ─") for group in ("Data", "Method", "Optimisation", "Output")]
    assert places == sorted(places)
    assert places[0] < shown.index("--train ") < places[1] < shown.index("--prefix-len ") < places[2]
    assert places[2] < shown.rindex("--sweep ") < places[3] < shown.index("--output ")
    _, sets = shown.split("--sets ")
    assert "one table for each data set" in " ".join(sets.replace("│", " ").split()[:30])


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["--prefix-len", "-1"], "option prefix_len: Input should be greater than or equal to 0; seen -1"),
        (["--method", "lora"], "option method: Input should be 'p-tuning-v2', "),
        (
            ["--name", "My Adapter"],
            "option name: a name is 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit; seen 'My",
        ),
        (["--learning-rate", "0"], "option learning_rate: "),
        (["--prefix-dtype", "int8"], "option prefix_dtype: "),
        (["--column", "text"], "--column takes canonical=yours, e.g. text=premise; seen ['text']"),
        (["--labels", "cat,,dog"], "--labels is 'cat,,dog': give names with commas between, none of them empty"),
        (["--labels", "cat,cow"], "label 'dog' is not known: the file has labels that --labels lacks: ['dog']; "),
        (["--column", "text=premise"], "no column 'premise'"),
        (["--backbone", "./nowhere"], "./nowhere is no folder"),
        (["--train", "[bold]missing.jsonl"], "[bold]missing.jsonl does not exist"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--tracker", "notebook"], "tracker 'notebook' is not known; "),
        (["--prefix-init", "zeros"], "option prefix_init: Input should be 'normal' or 'words'"),
        (
            ["--prefix-init", "words", "--reparameterization", "mlp"],
            "invalid_request: prefix_init is 'words', but reparameterization says how the prefix starts: give one of",
        ),
        (["--seed", "1", "--seeds", "2,3"], "--seed and --seeds exclude each other"),
        (["--seeds", "2,2"], "--seeds 2,2: each seed can be given once"),
        (["--sweep", "rate=1"], "'rate' cannot be swept; method, prefix_len, "),
        (["--resume", "--restart"], "--resume and --restart exclude each other"),
        (["--tune-epochs", "2"], "--tune-epochs has no say with --method p-tuning-v2: leave it out"),
        (["--tune-learning-rate", "1"], "--tune-learning-rate has no say with --method p-tuning-v2"),
        (
            ["--prefix-dropout", "0.1", "--method", "prompt-tuning"],
            "--prefix-dropout has no say with --method prompt-tuning",
        ),
        (["--reparameterization-size", "96"], "--reparameterization-size has no say with --reparameterization none"),
        (["--head", "pooler", "--task", "text-embedding"], "--head has no say with --task text-embedding"),
        (["--pooling", "last_token", "--task", "question-answering"], "--pooling has no say with --task question-answ"),
        (["--labels", "a,b", "--task", "multiple-choice"], "--labels has no say with --task multiple-choice"),
        (["--method", "multitask", "--sets", "x.toml"], "--train has no say with --sets, whose tables name data sets"),
    ],
)
def test_bad_options_are_refused_with_the_reason(
    app: typer.Typer, train_options: list[str], options: list[str], mentions: str
) -> None:
    result = CliRunner().invoke(app, [*train_options, *options])
    assert result.exit_code == 2
    assert mentions in result.stderr
    assert result.stdout == ""


TEXT, TAGGED = {"text": "a cat", "label": "cat"}, {"tokens": ["a", "cat"], "tags": ["O", "B-x"]}
ANSWERED = {"question": "who", "context": "Ada sat", "answers": {"text": ["Ada"], "answer_start": [0]}}


@pytest.mark.parametrize(
    ("task", "records", "mentions"),
    [
        ("text-classification", [TEXT, {**TEXT, "label": "cow"}], "line 2: label 'cow' is not known"),
        ("text-classification", [], " holds no record: at least one is needed"),
        ("text-classification", [TEXT, {"text": "a cat", "lable": "cat"}], "line 2: no column 'label' among"),
        ("text-classification", [{**TEXT, "id": 7}, {**TEXT, "id": 7}], "line 2: id 7 stands at "),
        ("token-classification", [TAGGED, {**TAGGED, "tags": ["O"]}], "line 2: 2 tokens but 1 tags"),
        ("question-answering", [ANSWERED, {**ANSWERED, "context": "Bob"}], "line 2: the answer 'Ada' is not at its"),
    ],
)
def test_bad_data_is_refused_with_its_place_and_leaves_nothing(
    app: typer.Typer,
    train_options: list[str],
    tmp_path: Path,
    task: str,
    records: list[dict[str, Any]],
    mentions: str,
) -> None:
    """In dev, beside training data that is sound."""
    sound: dict[str, list[dict[str, Any]]] = {
        "text-classification": [TEXT, {**TEXT, "label": "dog"}],
        "token-classification": [TAGGED],
    }
    files = {"train": sound.get(task, [ANSWERED]), "dev": records}
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in content))
    given = [part for name in files for part in (f"--{name}", str(tmp_path / f"{name}.jsonl"))]
    result = CliRunner().invoke(app, [*train_options, "--task", task, *given])
    assert result.exit_code == 2
    place = f"{tmp_path / 'dev.jsonl'}, " if records else f"{tmp_path / 'dev.jsonl'}"
    assert result.stderr.startswith(f"invalid_request: {place}{mentions}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "dev.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["--column", "text"], "invalid_request: --column takes canonical=yours"),
        (["--data", "none.jsonl"], "invalid_request: none.jsonl does not exist"),
        (["--dtype", "int4"], "dtype 'int4' is not known"),
        (["--backbone", "/nowhere"], "unsupported_backbone: /nowhere is no folder"),
    ],
)
def test_evaluate_refuses_with_the_reason(
    app: typer.Typer,
    backbone: Backbone,
    backbone_folder: Path,
    data: tuple[str, str],
    tmp_path: Path,
    options: list[str],
    mentions: str,
) -> None:
    bundle = write_random_bundle(tmp_path / "bundle", backbone.spec, labels=("cat", "dog"))
    common = ["evaluate", str(bundle), "--data", data[1], "--backbone", str(backbone_folder), "--device", "cpu"]
    result = CliRunner().invoke(app, [*common, *options])
    assert result.exit_code == 2
    assert mentions in result.stderr


def test_evaluate_names_what_is_missing_of_a_bundle(
    app: typer.Typer, backbone_folder: Path, data: tuple[str, str], tmp_path: Path
) -> None:
    common = ["--data", data[1], "--backbone", str(backbone_folder), "--device", "cpu"]
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path), *common])
    assert result.exit_code == 2
    assert "malformed_bundle" in result.stderr
    assert "has no adapter.json" in result.stderr
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "nowhere"), *common])
    assert f"malformed_bundle: there is no folder {tmp_path / 'nowhere'}: a bundle is" in result.stderr


def test_options_that_the_shell_misspells_exit_with_2(app: typer.Typer, train_options: list[str]) -> None:
    for extra in (["--no-such-option"], ["--task", "translation"], ["--epochs", "many"]):
        assert CliRunner().invoke(app, [*train_options, *extra]).exit_code == 2


def test_the_card_shows_a_command_that_works_elsewhere() -> None:
    arguments = [
        "train",
        "--train",
        "/data/snli/train.jsonl.gz",
        "--output",
        "/database/x",
        "--description",
        "two words",
    ]
    assert portable_command(arguments, {"PREFIXRACK_DATA": "/data/"}) == (
        "prefixrack train --train $PREFIXRACK_DATA/snli/train.jsonl.gz --output x --description 'two words'"
    )
    of_one_start = ["--resume", "--restart", "--overwrite"]
    assert portable_command(["train", "--train", "/data/x", *of_one_start], {}) == "prefixrack train --train x"


def test_who_interrupts_is_told_how_to_go_on(
    app: typer.Typer, train_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = PromptTrainer.training_step
    last_step = 0

    def interrupted(one: PromptTrainer, *given: Any) -> Any:
        if one.state.global_step == last_step:
            raise KeyboardInterrupt
        return usual(one, *given)

    monkeypatch.setattr(PromptTrainer, "training_step", interrupted)
    options = [*train_options, "--epochs", "3", "--batch-size", "16"]
    result = CliRunner().invoke(app, options)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.endswith("interrupted: there is nothing to resume\n")
    last_step = 2
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 130
    goes_on = f"interrupted: the same command with --resume goes on from {tmp_path / 'my-adapter.training'}\n"
    assert result.stderr.endswith(goes_on)
    last_step = -1
    result = CliRunner().invoke(app, [*options, "--resume"])
    assert result.exit_code == 0, result.output


def test_evaluating_changes_nothing_in_a_bundle(
    app: typer.Typer, backbone: Backbone, backbone_folder: Path, data: tuple[str, str], tmp_path: Path
) -> None:
    bundle: Any = write_random_bundle(tmp_path / "bundle", backbone.spec, labels=("cat", "dog"))
    before = bundle_digest(bundle)
    common = ["--data", data[1], "--backbone", str(backbone_folder), "--device", "cpu"]
    assert CliRunner().invoke(app, ["evaluate", str(bundle), *common]).exit_code == 0
    assert bundle_digest(bundle) == before


@pytest.fixture
def import_options(backbone_folder: Path, tmp_path: Path) -> list[str]:
    write_checkpoint(tmp_path / "run", backbone_folder)
    return [
        "import",
        "thudm",
        str(tmp_path / "run"),
        "--backbone",
        str(backbone_folder),
        "--out",
        str(tmp_path / "out"),
    ]


def test_import_writes_a_bundle_and_says_what_it_assumed(
    app: typer.Typer, import_options: list[str], tmp_path: Path
) -> None:
    shown = CliRunner().invoke(app, import_options)
    assert shown.exit_code == 0, shown.output
    assert "BertPrefixForSequenceClassification" in shown.stdout
    assert "assumed label order from config.json: no, yes" in shown.stdout

    options = ["--labels", "a, b", "--name", "two", "--check", "--json", "--overwrite"]
    result = CliRunner().invoke(app, [*import_options, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["output"] == str(tmp_path / "out")
    assert report["digest"] == bundle_digest(tmp_path / "out")
    assert (report["manifest"]["name"], report["manifest"]["labels"]) == ("two", ["a", "b"])
    assert report["checked_on"]["output"]["label"] in ("a", "b")
    assert int(report["read"]["frozen tensors compared"]) > 0


@pytest.mark.parametrize(
    ("options", "code", "mentions"),
    [
        (["--labels", "a,,b"], "invalid_request", "--labels is 'a,,b': give names with commas between"),
        (["--labels", "a"], "invalid_request", "the head has 2 outputs"),
        (["--task", "translation"], "invalid_request", "--task is 'translation'; text-classification, "),
        (["--tower", "left"], "invalid_request", "--tower is 'left'; question, context are allowed"),
        (["--backbone", "./nowhere"], "unsupported_backbone", "./nowhere is no folder"),
    ],
)
def test_a_bad_import_is_refused_with_the_reason(
    app: typer.Typer, import_options: list[str], tmp_path: Path, options: list[str], code: str, mentions: str
) -> None:
    result = CliRunner().invoke(app, [*import_options, *options])
    assert result.exit_code == 2
    assert f"{code}: " in result.stderr
    assert mentions in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused(
    app: typer.Typer, import_options: list[str], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    result = CliRunner().invoke(app, import_options)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert (tmp_path / "out").read_text() == "a file"


def test_a_bundle_that_is_there_is_replaced_only_when_told_to(
    app: typer.Typer, import_options: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert CliRunner().invoke(app, [*import_options, "--name", "first"]).exit_code == 0
    (out / "README.md").write_text("# first")
    before = bundle_digest(out)
    result = CliRunner().invoke(app, import_options)
    assert result.exit_code == 2
    assert "already holds the adapter 'first' (text-classification)" in result.stderr
    assert "another folder as --out, or --overwrite" in result.stderr
    assert bundle_digest(out) == before
    assert (out / "README.md").read_text() == "# first"

    assert CliRunner().invoke(app, [*import_options, "--overwrite"]).exit_code == 0
    assert bundle_digest(out) != before
    assert not (out / "README.md").exists()


def test_an_unknown_kind_of_source_is_refused(app: typer.Typer, import_options: list[str]) -> None:
    result = CliRunner().invoke(app, ["import", "lora", *import_options[2:]])
    assert result.exit_code == 2
    assert "source 'lora' is not known; thudm, peft, adapterhub, sat are" in result.stderr


def test_an_import_without_a_backbone_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["import", "thudm", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "--backbone" in result.stderr
