"""Multi-task runs: one prefix for several data sets with a head each, then tuned for each alone; a bundle each."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import TENSORS_FILE, bundle_digest, read_tensors
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.training.data import read_examples
from prefixrack_adapters.training.model import PromptModel
from prefixrack_adapters.training.multitask import read_sets, run_multitask
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import last_checkpoint
from prefixrack_adapters.training.trainer import PromptTrainer
from synthetic import Record, answer, settings_of, single, tags, write_data

PROCESS = Path(__file__).parents[1] / "train_process.py"
SETS: dict[str, tuple[str, Record]] = {
    "words": ("token-classification", tags),
    "shared": ("text-classification", single),  # a name that must not be taken for that of a phase
}
TIMEOUT_S = 900.0  # importing torch alone takes a minute where other work fills the cores
NUM_STEPS = 2 * 20  # of a shared epoch: two sets of 160 examples


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the process that is killed: sums in another order would differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sets_of(
    folder: Path, backbone: Path, sets: dict[str, tuple[str, Record]] = SETS, **options: Any
) -> list[TrainSettings]:
    fields = {"method": "multitask", "epochs": 2, "prefix_dropout": 0.1} | options
    return [
        settings_of(folder / f"{name}-data", backbone, task, record, name=name, output=folder / "out" / name, **fields)
        for name, (task, record) in sets.items()
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("tune_epochs", [0, 2])
def test_every_data_set_gets_a_bundle_that_scores_what_it_reports(
    backbone: Backbone, backbone_folder: Path, tmp_path: Path, tune_epochs: int
) -> None:
    sets = SETS | {"questions": ("question-answering", answer)}
    several = sets_of(tmp_path, backbone_folder, sets, epochs=4, tune_epochs=tune_epochs, backbone_dropout=False)
    reports = run_multitask(several)
    assert list(reports) == list(sets)
    prefixes = []
    for settings in several:
        report, adapter = reports[settings.name], Adapter.load(settings.output)
        examples = read_examples(settings.dev_file, settings.task, {})
        assert evaluate(backbone, adapter, examples).scores == pytest.approx(report.scores, abs=1e-6)
        assert report.scores[report.main] > report.majority[report.main]
        assert (adapter.manifest.name, adapter.manifest.task) == (settings.name, settings.task)
        assert adapter.manifest.provenance.method == "multitask"
        prefixes.append(read_tensors(settings.output / TENSORS_FILE)["prefix"].values)
    is_shared = all(np.array_equal(prefixes[0], one) for one in prefixes[1:])
    assert is_shared == (tune_epochs == 0)
    assert names(tmp_path / "out") == sorted(sets)
    assert names(tmp_path) == sorted(["out", *(f"{name}-data" for name in sets)])


def test_tuning_starts_from_the_shared_prefix_and_its_own_head(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a learning rate of nothing the tuned bundles are those of the shared run."""
    starts: list[dict[str, Any]] = []
    usual = PromptModel.start_from

    def start_from(model: PromptModel, arrays: dict[str, Any]) -> None:
        usual(model, arrays)
        starts.append(model.arrays())

    monkeypatch.setattr(PromptModel, "start_from", start_from)
    options: dict[str, Any] = {"prefix_dtype": "float32", "reparameterization": "mlp", "learning_rate": 3e-3}
    shared = sets_of(tmp_path / "shared", backbone_folder, **options)
    tuned = sets_of(tmp_path / "tuned", backbone_folder, tune_epochs=1, tune_learning_rate=1e-12, **options)
    run_multitask(shared)
    assert starts == []
    run_multitask(tuned)
    assert len(starts) == 2
    for one, other, start in zip(shared, tuned, starts, strict=True):
        expected, stored = (read_tensors(each.output / TENSORS_FILE) for each in (one, other))
        for name, tensor in expected.items():
            np.testing.assert_allclose(start[name], tensor.values, atol=1e-6)
            np.testing.assert_allclose(stored[name].values, tensor.values, atol=1e-6)


def test_a_shared_run_can_begin_with_a_bundle(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = settings_of(tmp_path / "first", backbone_folder, prefix_dtype="float32")
    run_training(first)
    options: dict[str, Any] = {"learning_rate": 1e-12, "prefix_dtype": "float32"}
    several = sets_of(tmp_path, backbone_folder, init_from=first.output, **options)
    run_multitask(several)
    expected = read_tensors(first.output / TENSORS_FILE)["prefix"].values
    for settings in several:
        stored = read_tensors(settings.output / TENSORS_FILE)["prefix"].values
        np.testing.assert_allclose(stored, expected, atol=1e-6)


def test_skipped_examples_are_counted_for_their_own_data_set(backbone_folder: Path, tmp_path: Path) -> None:
    several = sets_of(tmp_path, backbone_folder, epochs=1)
    with Path(several[1].train_file).open("a") as file:
        file.write('{"text": " ", "label": "cat"}\n')
    reports = run_multitask(several)
    assert [report.num_skipped for report in reports.values()] == [0, 1]


def test_a_data_set_without_a_usable_example_is_refused_by_name(backbone_folder: Path, tmp_path: Path) -> None:
    several = sets_of(tmp_path, backbone_folder)
    Path(several[1].train_file).write_text('{"text": " ", "label": "cat"}\n{"text": " ", "label": "dog"}\n')
    with pytest.raises(InvalidRequest, match="none of the 2 training examples of shared can be trained on"):
        run_multitask(several)
    assert names(tmp_path) == ["shared-data", "words-data"]


@pytest.mark.parametrize(
    ("place", "phase", "num_left"),
    [
        (f"step {NUM_STEPS + 3}", "shared", NUM_STEPS + 2 * 2 * 20),
        # the tuning of the second set has a checkpoint, that of the first set is done
        ("tuned shared", "tuned/shared", 20),
    ],
)
def test_a_killed_run_goes_on_in_whichever_phase(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, phase: str, num_left: int
) -> None:
    options: dict[str, Any] = {"tune_epochs": 2, "patience": 5}
    unbroken = sets_of(tmp_path / "unbroken", backbone_folder, **options)
    run_multitask(unbroken)
    several = sets_of(tmp_path / "killed", backbone_folder, **options)
    files = [tmp_path / f"{settings.name}.json" for settings in several]
    for file, settings in zip(files, several, strict=True):
        file.write_text(settings.model_dump_json())
    done = subprocess.run([sys.executable, PROCESS, *files, place], capture_output=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert last_checkpoint(tmp_path / "killed" / "out.training" / phase) is not None
    steps: list[int] = []
    usual = PromptTrainer.training_step

    def step(one: PromptTrainer, *given: Any) -> Any:
        steps.append(one.state.global_step)
        return usual(one, *given)

    monkeypatch.setattr(PromptTrainer, "training_step", step)
    run_multitask(several, "resume")
    assert len(steps) == num_left
    for one, other in zip(unbroken, several, strict=True):
        assert bundle_digest(one.output) == bundle_digest(other.output)
    assert names(tmp_path / "killed") == ["out", "shared-data", "words-data"]


def test_another_order_of_the_data_sets_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    """Heads are kept by number: each would be gone on with as another set's."""
    sets = {"a": SETS["shared"], "b": SETS["shared"]}
    several = sets_of(tmp_path, backbone_folder, sets)
    usual = PromptTrainer.training_step

    def interrupted(one: PromptTrainer, *given: Any) -> Any:
        if one.state.global_step == NUM_STEPS + 1:
            raise KeyboardInterrupt
        return usual(one, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_multitask(several)
    with pytest.raises(InvalidRequest, match="other settings: order of data sets differ"):
        run_multitask(several[::-1], "resume")


TOML = """
[ner]
task = "token-classification"
train = "data/train.jsonl"
dev = "data/dev.jsonl"
columns = { tokens = "words" }

[topics]
task = "text-classification"
train = "owner/name"
dev = "owner/name"
dev_split = "test"
"""


def test_data_sets_come_from_a_file(tmp_path: Path) -> None:
    write_data(tmp_path / "data", tags, 3, 3)
    path = tmp_path / "sets.toml"
    path.write_text(TOML)
    assert read_sets(path) == {
        "ner": {
            "task": "token-classification",
            "train_file": str(tmp_path / "data/train.jsonl"),
            "dev_file": str(tmp_path / "data/dev.jsonl"),
            "columns": {"tokens": "words"},
        },
        "topics": {
            "task": "text-classification",
            "train_file": "owner/name",
            "dev_file": "owner/name",
            "dev_split": "test",
        },
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (TOML.partition("[topics]")[0], r"sets\.toml has 1 entries: at least two tables"),
        ("name = 'x'\n" + TOML, "at least two tables"),
        (TOML + "[ner]\n", r"sets\.toml cannot be read as TOML"),
        (TOML.replace('dev = "owner/name"', ""), r"table topics: lacks \['dev'\]"),
        (TOML + "epochs = 3\n", r"table topics: .*unknown fields \['epochs'\]; known are train, dev"),
        (TOML.replace('dev = "owner/name"', "dev = 5"), "table topics: dev is 5: a path or a hub id is needed"),
    ],
)
def test_a_file_that_names_no_data_sets_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "sets.toml"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=problem):
        read_sets(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read as TOML"):
        read_sets(tmp_path / "sets.toml")
