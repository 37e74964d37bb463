"""What a run shows while it goes: on standard error only, with libraries kept quiet."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from prefixrack_adapters.training.multitask import run_multitask
from prefixrack_adapters.training.progress import Board, Watch, quiet_libraries, watched
from prefixrack_adapters.training.run import run_training
from synthetic import MakeSettings


@pytest.fixture
def switches() -> Iterator[None]:
    """How transformers was set is the whole process's."""
    had_bars = transformers_logging.is_progress_bar_enabled()
    yield
    switch_bars(had_bars)


def switch_bars(are_on: bool) -> None:
    if are_on:
        enable_progress_bar()
    else:
        disable_progress_bar()


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=150)


def shown(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_epoch_loss_and_score(screen: Console, tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), num_train_epochs=3, report_to=[])
    state, control = TrainerState(max_steps=30), TrainerControl()
    with Board(console=screen) as board:
        callback = board.callback("accuracy")
        callback.on_train_begin(args, state, control)
        callback.on_epoch_begin(args, state, control)
        state.global_step, state.epoch = 10, 1.0
        callback.on_step_end(args, state, control)
        callback.on_epoch_end(args, state, control)
        assert control.should_log
        callback.on_log(args, state, control, {"loss": 0.25})
        callback.on_log(args, state, control, {"eval_main": 0.5, "eval_accuracy": 0.5})
        callback.on_epoch_begin(args, state, control)
    lines = shown(screen).splitlines()
    assert lines[0] == "epoch 1 of 3: dev accuracy 0.5000, loss 0.250"
    assert lines[1].startswith("training ")
    assert "10/30" in lines[1]
    assert lines[1].rstrip().endswith("epoch 2 of 3 · loss 0.250 · dev accuracy 0.5000")


def test_a_study_says_which_run_of_how_many(screen: Console) -> None:
    with Board(2, console=screen) as board:
        board.begin("prefix_len=[8]")
        board.finish("score 0.5000", "best score 0.5000")
        board.begin("prefix_len=4")
    lines = shown(screen).splitlines()
    assert lines[:3] == ["run 1 of 2: prefix_len=[8]", "run 1 of 2: score 0.5000", "run 2 of 2: prefix_len=4"]
    assert "1/2" in lines[3]
    assert "best score 0.5000" in lines[3]


def test_the_bar_of_the_last_training_is_the_only_one(screen: Console) -> None:
    with Board(console=screen) as board:
        for phase in ("first", "second"):
            board.callback("f1", phase)
    assert "first" not in shown(screen)
    assert "second" in shown(screen)


@pytest.mark.usefixtures("switches")
def test_libraries_are_as_they_were_afterwards() -> None:
    verbosity = transformers_logging.get_verbosity()
    for are_on in (True, False):
        switch_bars(are_on)
        with quiet_libraries():
            assert not transformers_logging.is_progress_bar_enabled()
            assert transformers_logging.get_verbosity() == logging.ERROR
        assert transformers_logging.is_progress_bar_enabled() is are_on
        assert transformers_logging.get_verbosity() == verbosity


def test_a_watch_that_is_given_is_kept(screen: Console, tmp_path: Path) -> None:
    given = Watch(Board(console=screen), tmp_path)
    with watched(given, tmp_path / "out") as kept:
        assert kept is given
    with watched(None, tmp_path / "out") as own:
        assert own.logs == tmp_path / "out.logs"


@pytest.mark.usefixtures("switches")
def test_a_run_from_a_library_shows_progress_and_nothing_else(
    make_settings: MakeSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    switch_bars(True)
    run_training(make_settings(epochs=2))
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all(" loss " in line for line in lines)
    assert lines[-1].startswith("training ")


def test_a_multitask_run_says_which_part_it_is_in(
    make_settings: MakeSettings, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    several = [
        make_settings(method="multitask", name=name, output=tmp_path / "out" / name, tune_epochs=1)
        for name in ("one", "two")
    ]
    run_multitask(several)
    err = capfd.readouterr().err
    assert "shared (1 of 3), epoch 1 of 1: dev mean of scores " in err
    assert "tuned/one (2 of 3), epoch 1 of 1: dev accuracy " in err
    assert "tuned/two (3 of 3), epoch 1 of 1: dev accuracy " in err
