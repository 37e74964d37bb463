"""What a command that trains shows on standard error: its runs, and the one that is going. Knows no data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.trackers import logs_folder, own_callbacks

TRAINING = "training"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Bars and remarks of transformers would run through ours; how it was set before is put back."""
    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


class Board:
    """The display of one command, entered once around all of its runs.

    `num_runs` is for a study: it adds a bar of runs, and `begin` and `finish` say what becomes of each.
    """

    def __init__(self, num_runs: int = 0, console: Console | None = None) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console or Console(stderr=True),
        )
        self._num_runs = num_runs
        self._num_begun = 0
        self._runs = self.progress.add_task("runs", total=num_runs, state="") if num_runs else None
        self._going: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def begin(self, title: str) -> None:
        """The next run of a study."""
        self._num_begun += 1
        self.say(f"run {self._num_begun} of {self._num_runs}: {title}")

    def finish(self, outcome: str, state: str) -> None:
        """`outcome` of the run that was begun last; `state` of the study stays beside its bar."""
        self.say(f"run {self._num_begun} of {self._num_runs}: {outcome}")
        if self._runs is not None:
            self.progress.update(self._runs, completed=self._num_begun, state=state)

    def say(self, line: str) -> None:
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def bar(self, title: str, total: int) -> Bar:
        """For a loop of one's own: takes the place of the one before."""
        return Bar(self.progress, self._replace(self.progress.add_task(title, total=total, state="")))

    def callback(self, metric: str, phase: str = TRAINING) -> TrainingProgress:
        """For the Trainer: a bar that takes the place of the one before."""
        task = self._replace(self.progress.add_task(phase, total=None, start=False, state=""))
        return TrainingProgress(self, task, metric, "" if phase == TRAINING else f"{phase}, ")

    def _replace(self, task: TaskID) -> TaskID:
        if self._going is not None:
            self.progress.remove_task(self._going)
        self._going = task
        return task


@dataclass(frozen=True, slots=True)
class Bar:
    """Steps of one loop, on a board."""

    progress: Progress
    task: TaskID

    def advance(self, state: str) -> None:
        self.progress.update(self.task, advance=1, state=state)


class TrainingProgress(TrainerCallback):
    """Steps, epoch, loss and the latest dev score of one training, on a board."""

    def __init__(self, board: Board, bar: TaskID, metric: str, phase: str) -> None:
        self._board, self._bar, self._metric, self._phase = board, bar, metric, phase
        self._epoch = self._loss = self._score = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._board.progress.update(self._bar, total=state.max_steps, completed=state.global_step)
        self._board.progress.start_task(self._bar)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch = f"epoch {round(state.epoch or 0) + 1} of {round(args.num_train_epochs)}"
        self._show()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._board.progress.update(self._bar, completed=state.global_step)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log = True  # epochs shorter than the steps between two logs would show no loss at all

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.3f}"
        if "eval_main" in logs:
            self._score = f"dev {self._metric} {float(logs['eval_main']):.4f}"
            epoch = f"{self._phase}epoch {round(state.epoch or 0)} of {round(args.num_train_epochs)}"
            self._board.say(f"{epoch}: {', '.join(part for part in (self._score, self._loss) if part)}")
        self._show()

    def _show(self) -> None:
        state = " · ".join(part for part in (self._epoch, self._loss, self._score) if part)
        self._board.progress.update(self._bar, state=state)


@dataclass(frozen=True, slots=True)
class Watch:
    """What looks on while runs of one command go: the board, and trackers that write below `logs`."""

    board: Board
    logs: Path

    def callbacks(
        self, settings: TrainSettings, metric: str, phase: str = "", number: int = 1, count: int = 1
    ) -> list[TrainerCallback]:
        """For one training; where the run has several, `phase` names it, and it is `number` of `count`."""
        title = f"{phase} ({number} of {count})" if count > 1 else TRAINING
        return [self.board.callback(metric, title), *own_callbacks(settings.trackers, self.logs / phase)]


@contextmanager
def watched(watch: Watch | None, output: Path) -> Iterator[Watch]:
    """The watch that the caller keeps, or one for this run alone."""
    if watch is not None:
        yield watch
        return
    with quiet_libraries(), Board() as board:
        yield Watch(board, logs_folder(output))
