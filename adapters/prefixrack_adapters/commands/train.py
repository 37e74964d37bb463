"""`prefixrack train`. Knows options and tables; the run is in `training`."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from prefixrack.errors import Fault, InvalidRequest
from prefixrack.validation import first_problem
from prefixrack_adapters.commands import train_options as options
from prefixrack_adapters.commands.idle_options import refuse_idle_of_train
from prefixrack_adapters.commands.shared import (
    column_mapping,
    label_names,
    print_scores,
    printable,
    quiet_transformers,
    refuse,
)
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone

if TYPE_CHECKING:
    from prefixrack_adapters.training.card import Report
    from prefixrack_adapters.training.settings import TrainSettings
    from prefixrack_adapters.training.study import Combination, Study

NO_SETTINGS = (
    "as_json",
    "columns",
    "context",
    "dev_file",
    "name",
    "overwrite",
    "restart",
    "resume",
    "seed",
    "seeds",
    "sets",
    "sweep",
    "train_file",
)
OF_ONE_START = ("--overwrite", "--restart", "--resume")  # say what is there before a run, nothing of the run
EXIT_INTERRUPTED = 130  # as shells have it
WHEN_IT_DOES_NOT_LEARN = "see 'When it does not learn' in docs/training.md"


def train(
    context: typer.Context,
    *,  # so that what is required can stand in its group
    task: options.Task = None,
    train_file: options.TrainFile = None,
    dev_file: options.DevFile = None,
    train_split: options.TrainSplit = "train",
    dev_split: options.DevSplit = "validation",
    columns: options.Columns = None,
    input_format: options.InputFormat = "plain",
    labels: options.Labels = None,
    sets: options.Sets = None,
    max_len: options.MaxLen = 128,
    stride: options.Stride = 64,
    backbone: options.BackboneName = EMBEDDED,
    method: options.Method = "p-tuning-v2",
    prefix_len: options.PrefixLen = 32,
    prefix_layers: options.PrefixLayers = None,
    prefix_init: options.PrefixInit = "normal",
    reparameterization: options.Reparameterization = "none",
    reparameterization_size: options.ReparameterizationSize = 96,
    prefix_dropout: options.PrefixDropout = 0.0,
    backbone_dropout: options.BackboneDropout = True,
    init_from: options.InitFrom = None,
    head: options.Head = "linear",
    pooling: options.Pooling = None,
    epochs: options.Epochs = 10,
    patience: options.Patience = 3,
    learning_rate: options.LearningRate = None,
    head_learning_rate: options.HeadLearningRate = None,
    batch_size: options.BatchSize = 32,
    batch_tokens: options.BatchTokens = None,
    pack_tokens: options.PackTokens = 16384,
    gradient_accumulation: options.GradientAccumulation = 1,
    weight_decay: options.WeightDecay = 0.0,
    warmup: options.Warmup = 0.06,
    tune_epochs: options.TuneEpochs = 0,
    tune_learning_rate: options.TuneLearningRate = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    sweep: options.Sweep = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    output: options.Output,
    name: options.Name = None,
    description: options.Description = "",
    dataset: options.Dataset = "",
    source: options.DataSource = "",
    licence: options.Licence = None,
    num_examples: options.NumExamples = 0,
    prefix_dtype: options.PrefixDtype = "float16",
    trackers: options.Trackers = None,
    resume: options.Resume = False,
    restart: options.Restart = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Train an adapter on a frozen backbone and write it as a bundle.

    With --seeds or --sweep a study of several runs: its table is printed, the best run's bundle is written.
    """
    given = {key: value for key, value in locals().items() if key not in NO_SETTINGS}
    from prefixrack_adapters.training.outputs import check_outputs
    from prefixrack_adapters.training.plan import read_sweep

    quiet_transformers()
    try:
        refuse_idle_of_train(context, read_sweep(sweep or []))
        common = _common(given, columns or []) | ({} if seed is None else {"seed": seed})
        data = {"--task": task, "--train": train_file, "--dev": dev_file}
        settings = _of_sets(common, sets) if sets is not None else [_single(common, data, name or output.name)]
        on_leftovers = _on_leftovers(resume, restart)
        if not overwrite:
            check_outputs(settings, on_leftovers)
        if seeds is None and not sweep:
            _show_runs(settings, _run(settings, on_leftovers), as_json)
        else:
            _show_study(settings, _study(settings, seed, seeds, sweep or [], on_leftovers), as_json)
    except Fault as fault:
        refuse(fault)
    except KeyboardInterrupt:
        _say_how_to_go_on(output)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if not as_json:
        _show_next(settings)


def _say_how_to_go_on(output: Path) -> None:
    from prefixrack_adapters.training.staging import workspace_of

    folder = workspace_of(output)
    note = f"the same command with --resume goes on from {folder}" if folder.exists() else "there is nothing to resume"
    Console(stderr=True, highlight=False, soft_wrap=True).print(printable(f"interrupted: {note}"), style="yellow")


def _run(settings: Sequence[TrainSettings], on_leftovers: str | None) -> dict[str, Report]:
    from prefixrack_adapters.training.multitask import run_multitask  # torch loads only when training
    from prefixrack_adapters.training.run import run_training

    if settings[0].method == "multitask":
        return run_multitask(settings, on_leftovers)
    return {settings[0].name: run_training(settings[0], on_leftovers)}


def _study(
    settings: Sequence[TrainSettings], seed: int | None, seeds: str | None, sweep: Sequence[str], wish: str | None
) -> Study:
    from prefixrack_adapters.training.plan import Plan, read_seeds, read_sweep

    if seed is not None and seeds is not None:
        raise InvalidRequest("--seed and --seeds exclude each other: give one of them")
    plan = Plan(read_sweep(sweep), [settings[0].seed] if seeds is None else read_seeds(seeds))
    from prefixrack_adapters.training.study import run_study

    return run_study(settings, plan, wish)


def _show_runs(settings: Sequence[TrainSettings], reports: Mapping[str, Report], as_json: bool) -> None:
    if as_json:
        shown = [{"output": str(one.output), **asdict(reports[one.name])} for one in settings]
        typer.echo(json.dumps(shown[0] if len(shown) == 1 else shown))
        return
    from prefixrack_adapters.training.card import epochs_in_words, trained_in_words

    for one in settings:
        report = reports[one.name]
        print_scores(f"{one.name} ({one.method}) on dev", report.scores, report.without_prefix, report.majority)
        told = f"{epochs_in_words(report)}; trained parameters: {trained_in_words(report)}; {report.seconds:.0f} s"
        Console(highlight=False, soft_wrap=True).print(told)
        warn_of_what_was_not_learnt(one.name, report)


def warn_of_what_was_not_learnt(name: str, report: Report) -> None:
    """A bundle that a constant answer beats is seldom what was wanted."""
    rivals = {"the best constant answer": report.majority, "its head without the prefix": report.without_prefix}
    score = report.scores[report.main]
    better = [rival for rival, scores in rivals.items() if scores.get(report.main, -math.inf) >= score]
    if better:
        note = f"{name} is no better than {' or '.join(better)}: {WHEN_IT_DOES_NOT_LEARN}"
        Console(stderr=True, highlight=False, soft_wrap=True).print(printable(note), style="yellow")


def _show_study(settings: Sequence[TrainSettings], study: Study, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"output": [str(one.output) for one in settings], **study.as_json()}))
        return
    headings = (*study.plan.sweep, f"dev {study.metric}", "n", "trained")
    columns = [Column(heading, no_wrap=True) for heading in headings]
    table = Table(*columns, Column(overflow="fold"), title=f"{len(study.runs)} runs", box=SIMPLE_HEAD)
    for combination in study.combinations:
        table.add_row(*_study_row(study, combination))
    Console().print(table)
    _show_runs(settings, study.best.reports, as_json=False)


def _study_row(study: Study, combination: Combination) -> list[str]:
    score = "–" if combination.mean is None else f"{combination.mean:.4f}"
    deviation = "" if combination.deviation is None else f" ± {combination.deviation:.4f}"
    num_trained = "–" if combination.num_trained is None else f"{combination.num_trained:,}"
    values = [str(value) for value in combination.changes.values()]
    remarks = [f"best: seed {study.best.seed}, {study.best.score:.4f}"] if study.best in combination.runs else []
    for reason in dict.fromkeys(run.reason for run in combination.failed):
        seeds = [str(run.seed) for run in combination.failed if run.reason == reason]
        remarks.append(f"seed {', '.join(seeds)} failed: {reason}")
    return [*values, score + deviation, str(len(combination.finished)), num_trained, printable("; ".join(remarks))]


def _show_next(settings: Sequence[TrainSettings]) -> None:
    """The way from a bundle to production; a baseline has none."""
    from prefixrack_adapters.bundle import MANIFEST_FILE

    written = [one for one in settings if (one.output / MANIFEST_FILE).exists()]
    if not written:
        return
    folder, name = shlex.quote(str(written[0].output)), written[0].name
    others = f" (and so on, for {len(written)} bundles)" if len(written) > 1 else ""
    typer.echo(f"Next{others}:")
    typer.echo(f"  prefixrack evaluate {folder} --data test.jsonl --split test --write")
    typer.echo(f"  prefixrack push {folder} && prefixrack predict {name}@latest …")
    typer.echo(f"  prefixrack promote {name}@latest")


def _on_leftovers(resume: bool, restart: bool) -> str | None:
    if resume and restart:
        raise InvalidRequest("--resume and --restart exclude each other: give one of them")
    return "resume" if resume else "restart" if restart else None


def _common(given: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Settings that all data sets of a run share."""
    layers = given["prefix_layers"]
    return given | {
        "columns": column_mapping(columns),
        "command": portable_command(sys.argv[1:], os.environ),
        "backbone": resolve_backbone(given["backbone"]),
        "prefix_layers": None if layers is None else layers.split(","),
        "labels": label_names(given["labels"]),
        "trackers": given["trackers"] or [],
    }


def _single(common: Mapping[str, Any], given: Mapping[str, str | None], name: str) -> TrainSettings:
    missing = [option for option, value in given.items() if value is None]
    if missing or common["method"] == "multitask":
        raise InvalidRequest(
            f"{', '.join(missing) or '--sets'} is missing: --task, --train and --dev name one data set, --sets (with "
            "--method multitask) several"
        )
    return _settings({**common, "name": name, "train_file": given["--train"], "dev_file": given["--dev"]})


def _of_sets(common: Mapping[str, Any], sets: Path) -> list[TrainSettings]:
    from prefixrack_adapters.training.multitask import read_sets

    if common["method"] != "multitask":
        raise InvalidRequest(f"--sets is for --method multitask; seen method {common['method']!r}")
    return [
        _settings({**common, **fields, "name": name, "output": common["output"] / name})
        for name, fields in read_sets(sets).items()
    ]


def _settings(given: Mapping[str, Any]) -> TrainSettings:
    from prefixrack_adapters.training.settings import TrainSettings

    try:
        return TrainSettings.model_validate(given)
    except ValidationError as error:
        problem = first_problem(error)
        if not problem.parts:  # of options that do not go together: it names them
            raise InvalidRequest(problem.sentence) from None
        raise InvalidRequest(f"option {problem.place}: {problem.sentence}; seen {problem.seen!r}"[:400]) from None


def portable_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command for the card, as it begins a run.

    Paths of this machine mean nothing elsewhere: files under $PREFIXRACK_DATA are shown below that variable, and other
    absolute paths by their last name.
    """
    folder = environment.get("PREFIXRACK_DATA", "").rstrip("/")
    lasting = [argument for argument in arguments if argument not in OF_ONE_START]
    return " ".join(["prefixrack", *(_portable(argument, folder) for argument in lasting)])


def _portable(argument: str, data_folder: str) -> str:
    if data_folder and argument.startswith(f"{data_folder}/"):
        return "$PREFIXRACK_DATA" + shlex.quote(argument.removeprefix(data_folder))
    return shlex.quote(Path(argument).name if argument.startswith("/") else argument)
