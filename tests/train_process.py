"""A training run in a process of its own that kills itself with SIGKILL at a given place.

Usage: train_process.py SETTINGS.json [SETTINGS.json …] PLACE. Several settings are one multi-task run. Places:
"step 30" in the middle of an epoch; "checkpoint 40" when that one is whole, "half 40" when it lacks its last files;
"tuned NAME" at the first checkpoint of that data set's tuning; "writing" before the bundle's files, "moving" when one
of them lies at its place and the other does not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from prefixrack_adapters.training import run, trainer
from prefixrack_adapters.training.multitask import run_multitask
from prefixrack_adapters.training.settings import TrainSettings


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(kind: Any, name: str, is_time: Callable[..., bool]) -> None:
    """Die where a method is called, or a function of a module."""
    usual = getattr(kind, name)

    def checked(*given: Any, **named: Any) -> Any:
        if is_time(*given):
            kill()
        return usual(*given, **named)

    setattr(kind, name, checked)


def arrange(place: str) -> None:
    word, _, rest = place.partition(" ")
    number = int(rest) if rest.isdigit() else 0
    match word:
        case "step":
            before(trainer.PromptTrainer, "training_step", lambda one, *_: one.state.global_step == number)
        case "checkpoint":
            before(trainer.BestCheckpoint, "on_save", lambda _, args, state, *others: state.global_step == number)
        case "tuned":
            folder = Path("tuned") / rest
            before(trainer.BestCheckpoint, "on_save", lambda _, args, *others: Path(args.output_dir).match(str(folder)))
        case "half":
            before(Trainer, "_save_rng_state", lambda one, *_: one.state.global_step == number)
        case "writing":
            before(run, "write_bundle", lambda *_: True)
        case "moving":
            before(Path, "replace", lambda _, target: Path(target).name == "adapter.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    *files, place = sys.argv[1:]
    settings = [TrainSettings.model_validate_json(Path(file).read_text()) for file in files]
    arrange(place)
    if len(settings) > 1:
        run_multitask(settings)
    else:
        run.run_training(settings[0])


if __name__ == "__main__":
    main()
