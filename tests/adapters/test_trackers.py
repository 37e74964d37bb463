"""Trackers: refused before a run where they cannot work; TensorBoard's logs lie beside the output."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.integrations.integration_utils import get_available_reporting_integrations

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training import trackers
from prefixrack_adapters.training.plan import Plan
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.study import run_study
from prefixrack_adapters.training.trackers import PACKAGES, TRACKERS, check_trackers, of_trainer
from synthetic import MakeSettings

MISSING = sorted(set(TRACKERS) - set(get_available_reporting_integrations()))


def test_an_unknown_tracker_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match=r"tracker 'notebook' is not known; .*mlflow, .*tensorboard, .*wandb are"):
        check_trackers(["notebook"])


@pytest.mark.skipif(not MISSING, reason="every tracker that there is is installed")
def test_a_tracker_that_is_not_installed_is_refused_before_the_run(make_settings: MakeSettings, tmp_path: Path) -> None:
    name = MISSING[0]
    settings = make_settings(trackers=(name,))
    for run in (lambda: run_training(settings), lambda: run_study([settings], Plan({}, [1, 2]))):
        with pytest.raises(InvalidRequest) as caught:
            run()
        assert caught.value.detail == (
            f"tracker '{name}' is not installed here: pip install {PACKAGES.get(name, name)}"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_tracker_that_cannot_be_loaded_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'gradio_client'")

    monkeypatch.setattr(trackers, "get_available_reporting_integrations", lambda: ["trackio"])
    monkeypatch.setattr(trackers, "INTEGRATION_TO_CALLBACK", {"trackio": broken})
    with pytest.raises(InvalidRequest, match=r"'trackio' cannot be loaded \(No module named 'gradio_client'\): pip "):
        check_trackers(["trackio"])


def test_no_tracker_is_fine() -> None:
    check_trackers([])
    assert of_trainer(["tensorboard", "mlflow"]) == ("mlflow",)


def test_logs_of_tensorboard_stay_beside_the_output(make_settings: MakeSettings, tmp_path: Path) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="tensorboard is not installed")
    run_training(make_settings(trackers=("tensorboard",), epochs=2))
    logged = accumulator.EventAccumulator(str(tmp_path / "bundle.logs"))
    logged.Reload()
    assert len(logged.Scalars("eval/main")) == 2
    assert [event.step for event in logged.Scalars("train/loss")] == [1, 20, 40]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "bundle", "bundle.logs"}


def test_each_run_of_a_study_has_its_own_logs(make_settings: MakeSettings, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run_study([make_settings(trackers=("tensorboard",))], Plan({"prefix_len": [2]}, [1, 2]))
    names = {path.name for path in (tmp_path / "bundle.logs").iterdir()}
    assert names == {"prefix_len=2,seed=1", "prefix_len=2,seed=2"}
