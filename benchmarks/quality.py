"""The P-Tuning v2 paper's comparison, run again: fine-tuning, head alone, prompt tuning, P-Tuning v2, multi-task.

A cell is one data set, one method, one seed. Each finished cell is a JSON line in the results file, and a cell that
has a line is not run again, unless its recipe has changed since: a run that was broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from machine import device_name, git_commit
from prefixrack_adapters.devices import resolve_device
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.multitask import run_multitask
from prefixrack_adapters.training.progress import Board, Watch, quiet_libraries
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.together import METHODS as TOGETHER
from prefixrack_adapters.training.together import run_together
from quality_lines import differences
from quality_sets import (
    DEFAULT_SETS,
    MAX_DEV,
    MAX_TRAIN,
    METHODS,
    SETS,
    QualitySet,
    labels_of_set,
    partners,
    recipe,
    write_subset,
)
from results_lines import ResultLines

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = Console(stderr=True)
GPU_PACK_TOKENS = 65536  # of cells that are trained together; a GPU with less memory halves it by itself
SHOWN = (
    *("epochs", "patience", "batch_size", "max_len", "warmup", "prefix_len", "prefix_init"),
    *("reparameterization", "reparameterization_size"),
    *("backbone_dropout", "prefix_dropout", "prefix_layers", "head", "tune_epochs", "tune_learning_rate"),
)


class Cell(NamedTuple):
    name: str
    method: str
    seed: int


Group = tuple[Cell, ...]
"""Cells that are trained together; most often one alone."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """At most so many examples of each data set."""

    train: int
    dev: int


class Outcome(NamedTuple):
    """The lines of a cell that was run, or the reason why it has none."""

    cell: Cell
    lines: Sequence[Mapping[str, Any]]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """One invocation: where data and backbone are, what is tried, where results go."""

    data: Path
    backbone: Path
    device: str
    sizes: Sizes
    changes: Mapping[str, Any]
    results: Path

    def finished(self) -> set[Cell]:
        """Those with a line of these sizes, of today's recipe with these changes."""
        lines = ResultLines.read_existing([self.results]).lines
        return {
            Cell(setup["dataset"], setup["method"], setup["seed"])
            for setup in (line["setup"] for line in lines if not differences(line, self.changes))
            if (setup["max_train"], setup["max_dev"]) == (self.sizes.train, self.sizes.dev)
        }

    def run_cell(self, cell: Cell, watch: Watch | None = None) -> list[dict[str, Any]]:
        """A cell's line; a multi-task run gives those of all of its data sets at once."""
        with tempfile.TemporaryDirectory(prefix="prefixrack-quality-") as folder:
            if cell.method != "multitask":
                settings = self._settings(SETS[cell.name], cell.method, cell.seed, Path(folder))
                return [self._line(settings, run_training(settings, watch=watch))]
            together = partners(cell.name)
            joined = [self._settings(SETS[one], cell.method, cell.seed, Path(folder)) for one in together]
            reports = run_multitask(joined, watch=watch)
            return [self._line(settings, reports[settings.name], together) for settings in joined]

    def run_group(self, group: Group, watch: Watch | None = None) -> Iterator[Outcome]:
        """The lines of all cells of a group, or why a cell has none."""
        if len(group) == 1:
            yield Outcome(group[0], self.run_cell(group[0], watch))
            return
        with tempfile.TemporaryDirectory(prefix="prefixrack-quality-") as folder:
            places = [Path(folder) / f"{cell.method}-{cell.seed}" for cell in group]
            for place in places:
                place.mkdir(exist_ok=True)
            settings = [
                self._settings(SETS[cell.name], cell.method, cell.seed, place)
                for cell, place in zip(group, places, strict=True)
            ]
            if not self.device.startswith("cpu"):  # few large packs; the results are those of small ones
                settings = [one.model_copy(update={"pack_tokens": GPU_PACK_TOKENS}) for one in settings]
            for cell, one, report in zip(group, settings, run_together(settings, watch), strict=True):
                if isinstance(report, Report):
                    yield Outcome(cell, [self._line(one, report, together=len(group))])
                else:
                    yield Outcome(cell, [], report.detail)

    def run_quietly(self, group: Group) -> list[Outcome]:
        """One of several side by side, whose displays would run through each other."""
        with quiet_libraries(), tempfile.TemporaryDirectory() as logs:
            return list(self.run_group(group, Watch(Board(console=Console(quiet=True)), Path(logs))))

    def record(self, line: Mapping[str, Any]) -> None:
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        setup, result = line["setup"], line["result"]
        cell = f"{setup['dataset']} {setup['method']} seed {setup['seed']}"
        CONSOLE.print(f"{cell}: {result['main']} {result['score']:.4f}, {result['seconds']:.0f} s")

    def _settings(self, one: QualitySet, method: str, seed: int, folder: Path) -> TrainSettings:
        train_file, num_train = write_subset(self.data, one.name, "train", self.sizes.train, folder)
        dev_file, _ = write_subset(self.data, one.name, "dev", self.sizes.dev, folder)
        options = {**recipe(method, one, num_train), **self.changes}
        return TrainSettings(
            name=one.name,
            task=one.task,
            backbone=self.backbone,
            train_file=str(train_file),
            dev_file=str(dev_file),
            output=folder / "out" / one.name,
            columns=dict(one.columns),
            input_format=one.input_format,
            labels=labels_of_set(self.data, one.name),
            method=method,
            max_len=one.max_len,
            seed=seed,
            device=self.device,
            dataset=one.name,
            **options,
        )

    def _line(
        self, settings: TrainSettings, report: Report, joined: Sequence[str] = (), together: int = 1
    ) -> dict[str, Any]:
        return {
            "commit": git_commit(),
            "device": device_name(self.device),
            "setup": {
                "dataset": settings.name,
                "method": settings.method,
                "seed": settings.seed,
                "max_train": self.sizes.train,
                "max_dev": self.sizes.dev,
                "changes": self.changes,
                "joined_with": list(joined),
                "together": together,
                "num_train": report.num_train,
                "num_dev": report.num_dev,
                "threads": torch.get_num_threads(),
                "settings": _shown(settings),
            },
            "result": {
                "main": report.main,
                "score": report.scores[report.main],
                "scores": report.scores,
                "majority": report.majority,
                "history": report.history,
                "best_epoch": report.best_epoch,
                "num_trained": report.num_trained,
                "num_backbone": report.num_backbone,
                "seconds": round(report.seconds, 1),
            },
        }


def _shown(settings: TrainSettings) -> dict[str, Any]:
    rates = {"learning_rate": settings.rate, "head_learning_rate": settings.head_rate}
    return settings.model_dump(include=set(SHOWN)) | rates


def cells(arguments: argparse.Namespace, bench: Bench) -> Iterator[Cell]:
    """What is left to do, all methods of a data set before the next, all data sets before the next seed.

    Of the data sets that a multi-task run trains together only the first stands for it.
    """
    finished = bench.finished()
    for seed in arguments.seed or (13, 14, 15):
        for name in arguments.set or DEFAULT_SETS:
            for method in arguments.method or METHODS:
                cell = Cell(name, method, seed)
                if cell in finished:
                    continue
                if method == "multitask":
                    finished |= {Cell(one, method, seed) for one in partners(name)}
                yield cell


def groups(todo: Sequence[Cell], max_together: int) -> list[Group]:
    """Cells as they are run: of methods that leave the backbone as it is, up to so many of a kind of task at once.

    Rows of a kind are of like lengths, which a GPU's padded attention wants.
    """
    alike: dict[tuple[str, bool], list[Cell]] = {}
    alone: list[Group] = []
    for cell in todo:
        if cell.method in TOGETHER and max_together > 1:
            alike.setdefault((SETS[cell.name].kind, cell.method == "prompt-tuning"), []).append(cell)
        else:
            alone.append((cell,))
    joined = [
        tuple(members[start : start + max_together])
        for members in alike.values()
        for start in range(0, len(members), max_together)
    ]
    return [*joined, *alone]


def run_all(bench: Bench, todo: Sequence[Group], num_workers: int) -> int:
    """Run groups of cells, side by side if there are several workers, and record each; how many cells failed."""
    outcomes = _in_turn(bench, todo) if num_workers == 1 else _side_by_side(bench, todo, num_workers)
    num_failed = 0
    for outcome in outcomes:
        for line in outcome.lines:
            bench.record(line)
        if outcome.reason is not None:
            num_failed += 1
            CONSOLE.print(f"{outcome.cell} failed: {outcome.reason}", style="red", markup=False)
    return num_failed


def _in_turn(bench: Bench, todo: Sequence[Group]) -> Iterator[Outcome]:
    """A failure of a whole group ends all: it is most often one that the next would meet too."""
    for number, group in enumerate(todo, 1):
        CONSOLE.rule(f"{number} of {len(todo)}: {_title(group)}")
        yield from bench.run_group(group)


def _side_by_side(bench: Bench, todo: Sequence[Group], num_workers: int) -> Iterator[Outcome]:
    with ProcessPoolExecutor(num_workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(bench.run_quietly, group): group for group in todo}
        for number, done in enumerate(as_completed(running), 1):
            CONSOLE.rule(f"{number} of {len(todo)}: {_title(running[done])}")
            error = done.exception()
            if error is None:
                yield from done.result()
            else:
                yield from (Outcome(cell, [], f"{type(error).__name__}: {error}") for cell in running[done])


def _title(group: Group) -> str:
    return " ".join(map(str, group[0])) + (f" and {len(group) - 1} more together" if len(group) > 1 else "")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=environ.get("PREFIXRACK_DATA"), help="folder of the data sets")
    parser.add_argument("--set", action="append", choices=list(SETS), help="data sets; repeat as needed")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--seed", action="append", type=int, help="13, 14 and 15 by default")
    parser.add_argument("--max-train", type=int, default=MAX_TRAIN, help="examples of a set; %(default)s by default")
    parser.add_argument("--max-dev", type=int, default=MAX_DEV, help="likewise; %(default)s by default")
    parser.add_argument("--change", action="append", default=[], help="a setting to try, e.g. learning_rate=3e-3")
    parser.add_argument("--backbone", default=EMBEDDED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="cells (or groups) trained side by side, a process each")
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        metavar="N",
        help=f"train up to N cells of {', '.join(TOGETHER)} in the same steps: on a GPU much faster than one by one",
    )
    parser.add_argument("--results", type=Path, help="benchmarks/results/quality-<device>.jsonl by default")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no data: give --data or set PREFIXRACK_DATA to the folder of the data sets")
    return arguments


def main() -> None:
    arguments = parse()
    device = resolve_device(arguments.device)
    default = ROOT / "benchmarks" / "results" / f"quality-{device.partition(':')[0]}.jsonl"
    bench = Bench(
        data=Path(arguments.data),
        backbone=resolve_backbone(arguments.backbone),
        device=device,
        sizes=Sizes(arguments.max_train, arguments.max_dev),
        changes={name: json.loads(value) for name, _, value in (one.partition("=") for one in arguments.change)},
        results=arguments.results or default,
    )
    todo = groups(list(cells(arguments, bench)), arguments.together)
    raise SystemExit(min(1, run_all(bench, todo, arguments.workers)))


if __name__ == "__main__":
    main()
