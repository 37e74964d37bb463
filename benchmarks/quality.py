"""The P-Tuning v2 paper's comparison, run again: fine-tuning, head alone, prompt tuning, P-Tuning v2, multi-task.

A cell is one data set, one method, one seed. Each finished cell is a JSON line in the results file, and a cell that
has a line is not run again: a run that was broken off goes on where it was.
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
from prefixrack_adapters.backbone import resolve_device
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.multitask import run_multitask
from prefixrack_adapters.training.progress import Board, Watch, quiet_libraries
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
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

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = Console(stderr=True)
SHOWN = (
    *("epochs", "patience", "batch_size", "max_len", "warmup", "prefix_len", "prefix_init"),
    *("reparameterization", "reparameterization_size"),
    *("backbone_dropout", "prefix_dropout", "prefix_layers", "head", "tune_epochs", "tune_learning_rate"),
)


class Cell(NamedTuple):
    name: str
    method: str
    seed: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """At most so many examples of each data set."""

    train: int
    dev: int


@dataclass(frozen=True, slots=True)
class Bench:
    """One invocation: where data and backbone are, what is tried, where results go."""

    data: Path
    backbone: Path
    device: str
    sizes: Sizes
    changes: Mapping[str, Any]
    results: Path

    def key(self, name: str, method: str, seed: int) -> tuple[Any, ...]:
        return (name, method, seed, self.sizes.train, self.sizes.dev, json.dumps(self.changes, sort_keys=True))

    def finished(self) -> set[tuple[Any, ...]]:
        lines = self.results.read_text().splitlines() if self.results.is_file() else []
        return {_key_of(json.loads(line)["setup"]) for line in lines}

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

    def run_quietly(self, cell: Cell) -> list[dict[str, Any]]:
        """One of several side by side, whose displays would run through each other."""
        with quiet_libraries(), tempfile.TemporaryDirectory() as logs:
            return self.run_cell(cell, Watch(Board(console=Console(quiet=True)), Path(logs)))

    def record(self, line: Mapping[str, Any]) -> None:
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        setup, result = line["setup"], line["result"]
        cell = f"{setup['dataset']} {setup['method']} seed {setup['seed']}"
        CONSOLE.print(f"{cell}: {result['main']} {result['score']:.4f}, {result['seconds']:.0f} s")

    def _settings(self, one: QualitySet, method: str, seed: int, folder: Path) -> TrainSettings:
        train_file, num_train = write_subset(self.data, one.name, "train", self.sizes.train * one.size_factor, folder)
        dev_file, _ = write_subset(self.data, one.name, "dev", self.sizes.dev, folder)
        options = {**recipe(method, one.kind, num_train), **self.changes}
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

    def _line(self, settings: TrainSettings, report: Report, joined: Sequence[str] = ()) -> dict[str, Any]:
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


def _key_of(setup: Mapping[str, Any]) -> tuple[Any, ...]:
    changes = json.dumps(setup["changes"], sort_keys=True)
    return (setup["dataset"], setup["method"], setup["seed"], setup["max_train"], setup["max_dev"], changes)


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
                if bench.key(name, method, seed) in finished:
                    continue
                if method == "multitask":
                    finished |= {bench.key(one, method, seed) for one in partners(name)}
                yield Cell(name, method, seed)


def run_all(bench: Bench, todo: Sequence[Cell], num_workers: int) -> int:
    """Run cells side by side and record each as it ends; how many failed."""
    num_failed = 0
    with ProcessPoolExecutor(num_workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(bench.run_quietly, cell): cell for cell in todo}
        for number, done in enumerate(as_completed(running), 1):
            CONSOLE.rule(f"{number} of {len(todo)}")
            error = done.exception()
            if error is None:
                for line in done.result():
                    bench.record(line)
            else:
                num_failed += 1
                CONSOLE.print(f"{running[done]} failed: {type(error).__name__}: {error}", style="red", markup=False)
    return num_failed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=environ.get("PREFIXRACK_DATA"), help="folder of the data sets")
    parser.add_argument("--set", action="append", choices=list(SETS), help="data sets; repeat as needed")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--seed", action="append", type=int, help="13, 14 and 15 by default")
    parser.add_argument("--max-train", type=int, default=MAX_TRAIN, help="question answering takes twice as many")
    parser.add_argument("--max-dev", type=int, default=MAX_DEV)
    parser.add_argument("--change", action="append", default=[], help="a setting to try, e.g. learning_rate=3e-3")
    parser.add_argument("--backbone", default=EMBEDDED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="cells trained side by side, a process each")
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
    todo = list(cells(arguments, bench))
    if arguments.workers > 1:
        raise SystemExit(min(1, run_all(bench, todo, arguments.workers)))
    for index, cell in enumerate(todo):
        CONSOLE.rule(f"cell {index + 1} of {len(todo)}: {' '.join(map(str, cell))}")
        for line in bench.run_cell(cell):
            bench.record(line)


if __name__ == "__main__":
    main()
