"""A rich progress bar for a training run, as a Trainer callback."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingProgress(TrainerCallback):
    """Steps, loss and the latest dev score, on standard error."""

    def __init__(self, main_metric: str, console: Console | None = None) -> None:
        self._metric = main_metric
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]} · dev " + main_metric + " {task.fields[score]}"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )
        self._bar = self._progress.add_task("training", loss="–", score="–", start=False)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._progress.update(self._bar, total=state.max_steps)
        self._progress.start_task(self._bar)
        self._progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._progress.update(self._bar, completed=state.global_step)

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
            self._progress.update(self._bar, loss=f"{float(logs['loss']):.3f}")
        if "eval_main" in logs:
            self._progress.update(self._bar, score=f"{float(logs['eval_main']):.4f}")
            epoch = round(state.epoch or 0)
            self._progress.console.print(f"epoch {epoch}: dev {self._metric} {float(logs['eval_main']):.4f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._progress.stop()
