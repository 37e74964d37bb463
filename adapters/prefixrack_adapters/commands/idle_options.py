"""Options that would change nothing in what is asked for. Knows their names; no training and no evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import typer

from prefixrack.errors import InvalidRequest

PER_TOKEN = ("token-classification", "question-answering")
# By option: another one, and the values of that with which it has no say. What the settings refuse is not here, nor
# what only a baseline has no use for: that is the same command with another method.
IDLE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "prefix_dropout": ("method", ("prompt-tuning",)),
    "tune_epochs": ("method", ("p-tuning-v2", "prompt-tuning")),
    "tune_learning_rate": ("method", ("p-tuning-v2", "prompt-tuning")),
    "reparameterization_size": ("reparameterization", ("none",)),
    "head": ("task", (*PER_TOKEN, "text-embedding")),
    "pooling": ("task", PER_TOKEN),
    "labels": ("task", ("question-answering", "multiple-choice", "text-embedding")),
}
OF_ONE_SET = ("train_file", "dev_file", "name")  # with --sets its tables have them
OF_THIS_MACHINE = ("backbone", "device", "dtype")  # a server has its own
SPELLINGS = {"train_file": "--train", "dev_file": "--dev"}


def refuse_idle_of_train(context: typer.Context, swept: Collection[str]) -> None:
    """Raises InvalidRequest for an option that was typed and has no say.

    `swept` are settings that each run has another value of: what one run has no use for, another may need.
    """
    typed, given = _typed(context), context.params
    if given["sets"] is not None:
        _refuse_any(typed, OF_ONE_SET, "--sets, whose tables name data sets")
    for name in sorted(IDLE.keys() & typed):
        other, values = IDLE[name]
        is_fixed = other not in swept and (other != "task" or given["sets"] is None)  # tables have tasks of their own
        if is_fixed and given[other] in values:
            raise _idle(name, f"{_spelt(other)} {given[other]}")


def refuse_idle_of_evaluate(context: typer.Context) -> None:
    """Raises InvalidRequest likewise."""
    if context.params["server"] is not None:
        _refuse_any(_typed(context), OF_THIS_MACHINE, "--server, which computes on its own")


def _typed(context: typer.Context) -> set[str]:
    """Names of the options that stand in the command."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _refuse_any(typed: Collection[str], names: Collection[str], beside: str) -> None:
    idle = next((name for name in names if name in typed), None)
    if idle is not None:
        raise _idle(idle, beside)


def _idle(name: str, beside: str) -> InvalidRequest:
    return InvalidRequest(f"{_spelt(name)} has no say with {beside}: leave it out")


def _spelt(name: str) -> str:
    return SPELLINGS.get(name, f"--{name.replace('_', '-')}")
