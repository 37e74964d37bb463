"""A run that was killed goes on to the result that it would have had, or says why it cannot."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from prefixrack.errors import InvalidRequest, MalformedBundle
from prefixrack_adapters.bundle import bundle_digest
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import last_checkpoint
from prefixrack_adapters.training.trainer import BestCheckpoint, PromptTrainer
from synthetic import MakeSettings, settings_of
from tiny import write_backbone

PROCESS = Path(__file__).parents[1] / "train_process.py"
TIMEOUT_S = 900.0  # importing torch alone takes a minute where other work fills the cores
NUM_STEPS = 20  # of an epoch of the synthetic data
OPTIONS: dict[str, Any] = {"epochs": 4, "patience": 4, "prefix_dropout": 0.2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the process that is killed: sums in another order would differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, str]:
    """What a run without a break reports, and its bundle's digest."""
    torch.set_num_threads(1)
    settings = settings_of(tmp_path_factory.mktemp("unbroken"), backbone_folder, **OPTIONS)
    return run_training(settings), bundle_digest(settings.output)


def workspace_of(settings: TrainSettings) -> Path:
    return settings.output.with_name(f"{settings.output.name}.training")


def killed(settings: TrainSettings, place: str, folder: Path) -> None:
    """Run in a process of its own until it kills itself."""
    file = folder / "settings.json"
    file.write_text(settings.model_dump_json())
    done = subprocess.run([sys.executable, PROCESS, file, place], capture_output=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    ("place", "checkpoint"),
    [("step 30", 20), ("checkpoint 40", 40), ("half 60", 40), ("writing", 80), ("moving", 80)],
)
def test_a_killed_run_goes_on_to_the_same_bundle(
    make_settings: MakeSettings,
    unbroken: tuple[Report, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    checkpoint: int,
) -> None:
    settings = make_settings(**OPTIONS)
    killed(settings, place, tmp_path)
    with pytest.raises(MalformedBundle, match=r"a bundle is adapter\.json and adapter\.safetensors"):
        bundle_digest(settings.output)
    with pytest.raises(InvalidRequest, match=r"bundle\.training is left .*: --resume goes on with it, --restart"):
        run_training(settings)
    found = last_checkpoint(workspace_of(settings))
    assert found is not None
    assert found.name == f"checkpoint-{checkpoint}"
    steps = counted(monkeypatch)
    report = run_training(settings, "resume")
    assert len(steps) == 4 * NUM_STEPS - checkpoint
    assert bundle_digest(settings.output) == unbroken[1]
    assert report.history == unbroken[0].history
    assert report.scores == unbroken[0].scores
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "data", "settings.json"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are trained from now on."""
    steps: list[int] = []
    usual = PromptTrainer.training_step

    def step(one: PromptTrainer, *given: Any) -> Any:
        steps.append(one.state.global_step)
        return usual(one, *given)

    monkeypatch.setattr(PromptTrainer, "training_step", step)
    return steps


Snapshots = Callable[[TrainSettings], dict[int, Path]]


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Snapshots:
    """Run to the end, and keep the workspace as a kill after each checkpoint would have left it, by its steps."""

    def take(settings: TrainSettings) -> dict[int, Path]:
        kept: dict[int, Path] = {}

        def on_save(
            one: BestCheckpoint, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
        ) -> None:
            place = tmp_path / f"killed-at-{state.global_step}"
            kept[state.global_step] = Path(shutil.copytree(workspace_of(settings), place))

        with monkeypatch.context() as patch:
            patch.setattr(BestCheckpoint, "on_save", on_save)
            run_training(settings)
        return kept

    return take


def test_a_run_that_had_decided_to_stop_does_not_train_on(
    make_settings: MakeSettings, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(epochs=12, patience=2)
    kept = snapshots(settings)
    digest = bundle_digest(settings.output)
    last = max(kept)
    assert last < 12 * NUM_STEPS, "it stopped early"
    shutil.rmtree(settings.output)
    shutil.copytree(kept[last], workspace_of(settings))
    steps = counted(monkeypatch)
    report = run_training(settings, "resume")
    assert steps == []
    assert bundle_digest(settings.output) == digest
    assert len(report.history) == last // NUM_STEPS
    assert report.best_epoch == len(report.history) - 2


def test_patience_is_counted_on_over_a_break(make_settings: MakeSettings, snapshots: Snapshots) -> None:
    settings = make_settings(epochs=12, patience=2)
    kept = snapshots(settings)
    digest, last = bundle_digest(settings.output), max(kept)
    shutil.rmtree(settings.output)
    shutil.copytree(kept[last - NUM_STEPS], workspace_of(settings))
    report = run_training(settings, "resume")
    assert len(report.history) == last // NUM_STEPS
    assert bundle_digest(settings.output) == digest


def test_a_workspace_that_was_moved_keeps_its_best_checkpoint(
    make_settings: MakeSettings, snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one is not the last: found under no path of the first run, it is loaded all the same."""
    settings = make_settings(epochs=12, patience=2)
    kept = snapshots(settings)
    digest = bundle_digest(settings.output)
    shutil.copytree(kept[max(kept)], tmp_path / "elsewhere" / "bundle.training")
    monkeypatch.chdir(tmp_path / "elsewhere")
    run_training(settings.model_copy(update={"output": Path("bundle")}), "resume")
    assert bundle_digest(tmp_path / "elsewhere" / "bundle") == digest


def test_a_restart_begins_anew(make_settings: MakeSettings, snapshots: Snapshots, unbroken: tuple[Report, str]) -> None:
    other = make_settings(**OPTIONS | {"seed": 99, "epochs": 1})
    kept = snapshots(other)
    assert bundle_digest(other.output) != unbroken[1]
    shutil.copytree(kept[NUM_STEPS], workspace_of(other))
    settings = make_settings(**OPTIONS)
    assert run_training(settings, "restart").history == unbroken[0].history
    assert bundle_digest(settings.output) == unbroken[1]
    assert not workspace_of(settings).exists()


def test_other_settings_or_data_are_refused_by_name(
    make_settings: MakeSettings, snapshots: Snapshots, tmp_path: Path
) -> None:
    settings = make_settings()
    kept = snapshots(settings)
    shutil.copytree(kept[NUM_STEPS], workspace_of(settings))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": 14}, "seed"),
        ({"epochs": 3, "learning_rate": 0.5}, "epochs, learning_rate"),
    ]
    for update, name in changes:
        with pytest.raises(InvalidRequest, match=f"begun with other settings: {name} differ; repeat them to resume"):
            run_training(settings.model_copy(update=update), "resume")
    dev = Path(settings.dev_file)
    content = dev.read_text()
    dev.write_text(content.replace("rain", "mat"))
    with pytest.raises(InvalidRequest, match="other settings: bytes of dev_file differ"):
        run_training(settings, "resume")
    dev.write_text(content)
    run_training(settings.model_copy(update={"command": "another way to say it"}), "resume")
    assert not workspace_of(settings).exists()


def test_another_backbone_under_the_same_path_is_refused(
    make_settings: MakeSettings, snapshots: Snapshots, backbone_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(backbone_folder, tmp_path / "backbone"))
    settings = make_settings(backbone=folder)
    kept = snapshots(settings)
    shutil.copytree(kept[NUM_STEPS], workspace_of(settings))
    write_backbone(folder, seed=7)
    with pytest.raises(InvalidRequest, match="other settings: weights of backbone differ"):
        run_training(settings, "resume")


def test_without_leftovers_a_resumed_run_simply_begins(
    make_settings: MakeSettings, unbroken: tuple[Report, str]
) -> None:
    settings = make_settings(**OPTIONS)
    run_training(settings, "resume")
    assert bundle_digest(settings.output) == unbroken[1]


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "training_step", broken)
        with pytest.raises(ZeroDivisionError):
            run_training(settings)
    assert [path.name for path in settings.output.parent.iterdir()] == ["data"]
    run_training(settings.model_copy(update={"seed": 14}))


def test_a_run_that_is_interrupted_later_keeps_its_checkpoints(
    make_settings: MakeSettings, unbroken: tuple[Report, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(**OPTIONS)
    usual = PromptTrainer.training_step

    def interrupted(one: PromptTrainer, *given: Any) -> Any:
        if one.state.global_step == 50:
            raise KeyboardInterrupt
        return usual(one, *given)

    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_training(settings)
    run_training(settings, "resume")
    assert bundle_digest(settings.output) == unbroken[1]
