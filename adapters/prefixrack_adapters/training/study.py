"""A study: what is planned is run, and the best run chosen. Knows runs; no tensors, no tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import ValidationError

from prefixrack.errors import DiskFull, Fault, InvalidRequest
from prefixrack.validation import first_problem
from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE
from prefixrack_adapters.manifest import parse_manifest
from prefixrack_adapters.training.card import Report, render_card
from prefixrack_adapters.training.curves import Point, draw_study, in_words
from prefixrack_adapters.training.drafts import read_data
from prefixrack_adapters.training.multitask import run_multitask
from prefixrack_adapters.training.outputs import PICTURES, STUDY_FILE, STUDY_PICTURE, output_of
from prefixrack_adapters.training.plan import Plan
from prefixrack_adapters.training.progress import Board, Watch, quiet_libraries
from prefixrack_adapters.training.run import asked_for, run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import Workspace, staged
from prefixrack_adapters.training.trackers import check_trackers, logs_folder

DONE_FILE = "finished.json"
OWN_MACHINE = ("backbone", "command", "dev_file", "init_from", "output", "train_file")  # paths mean nothing elsewhere
FAILURES = (Fault, RuntimeError, ValueError, ArithmeticError)  # of one run; anything else stops the study


@dataclass(frozen=True, slots=True)
class Run:
    """One run: `reports` by data set, or none and the `reason` of its failure. `changes` are the swept settings."""

    changes: Mapping[str, Any]
    seed: int
    reports: Mapping[str, Report]
    reason: str | None = None

    @property
    def score(self) -> float:
        """Of several data sets the mean of their main scores."""
        return mean(report.scores[report.main] for report in self.reports.values())

    @property
    def key(self) -> str:
        return key_of(self.changes, self.seed)

    def as_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"settings": dict(self.changes), "seed": self.seed}
        if self.reason is not None:
            return facts | {"failed": self.reason}
        shown = ("main", "scores", "history", "best_epoch", "num_trained", "seconds")
        parts = [
            {"name": name} | {field: getattr(report, field) for field in shown} for name, report in self.reports.items()
        ]
        return facts | {"score": self.score, "parts": parts}


@dataclass(frozen=True, slots=True)
class Combination:
    """The runs of one combination, with what their scores come to; `num_trained` counts parameters."""

    changes: Mapping[str, Any]
    runs: Sequence[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.reason is None]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.reason is not None]

    @property
    def mean(self) -> float | None:
        return mean(run.score for run in self.finished) if self.finished else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, of the sample; of one run there is none."""
        return stdev(run.score for run in self.finished) if len(self.finished) > 1 else None

    @property
    def num_trained(self) -> int | None:
        return max(next(iter(run.reports.values())).num_trained for run in self.finished) if self.finished else None

    def as_json(self) -> dict[str, Any]:
        return {
            "settings": dict(self.changes),
            "mean": self.mean,
            "deviation": self.deviation,
            "num_finished": len(self.finished),
            "num_failed": len(self.failed),
            "num_trained": self.num_trained,
        }


@dataclass(frozen=True, slots=True)
class Study:
    """All runs of a study, and the one whose files lie in the output. `settings` are what no run changed."""

    settings: Mapping[str, Any]
    plan: Plan
    combinations: Sequence[Combination]
    best: Run

    @property
    def metric(self) -> str:
        names = [report.main for report in self.best.reports.values()]
        return names[0] if len(names) == 1 else "score over all sets"

    @property
    def runs(self) -> list[Run]:
        return [run for combination in self.combinations for run in combination.runs]

    @property
    def points(self) -> list[Point]:
        return [Point(one.changes, one.mean, one.deviation) for one in self.combinations if one.mean is not None]

    def as_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "settings": dict(self.settings),
            **self.plan.asked(),
            "best": {"settings": dict(self.best.changes), "seed": self.best.seed, "score": self.best.score},
            "combinations": [one.as_json() for one in self.combinations],
            "runs": [run.as_json() for run in self.runs],
        }


class StudyWorkspace(Workspace):
    """Keeps finished runs too."""

    def is_worth_keeping(self) -> bool:
        return any(self.folder.glob(f"*/{DONE_FILE}")) or super().is_worth_keeping()


def run_study(settings: Sequence[TrainSettings], plan: Plan, on_leftovers: str | None = None) -> Study:
    """Run what is planned, write the best run's files and the study's to the output.

    `settings` are those of `run_training` (one) or `run_multitask` (several). A run that fails stops nothing else.
    Finished runs wait in the workspace: with `on_leftovers` "resume" they are not run again, failed ones are.
    Raises InvalidRequest where the data cannot be read or no run finished.
    """
    check_trackers(settings[0].trackers)
    for one in settings:
        read_data(one)  # what is wrong with the data is wrong with every run
    output = output_of(settings)
    workspace = StudyWorkspace(output, asked_for(settings) | plan.asked())
    with ExitStack() as stack:
        folder = stack.enter_context(workspace.opened(on_leftovers))
        stack.enter_context(quiet_libraries())
        board = stack.enter_context(Board(plan.num_runs))
        study = _chosen(settings, plan, [*_runs(settings, plan, folder, board)])
        _publish(settings, study, folder)
    return study


def key_of(changes: Mapping[str, Any], seed: int) -> str:
    """Names a run for people, in tables and folders."""
    return in_words({**changes, "seed": seed}).replace(" ", "")


def _runs(settings: Sequence[TrainSettings], plan: Plan, folder: Path, board: Board) -> Iterator[Run]:
    best: Run | None = None
    for changes in plan.combinations():
        for seed in plan.seeds:
            board.begin(key_of(changes, seed))
            run = _run(settings, changes, seed, folder, board)
            if run.reason is None and (best is None or run.score > best.score):
                best = run
            outcome = f"score {run.score:.4f}" if run.reason is None else f"failed: {run.reason}"
            board.finish(outcome, "" if best is None else f"best score {best.score:.4f}")
            yield run


def _run(settings: Sequence[TrainSettings], changes: Mapping[str, Any], seed: int, folder: Path, board: Board) -> Run:
    """One run, or what is kept of it."""
    place = folder / key_of(changes, seed)
    done = place / DONE_FILE
    if done.exists():
        kept = json.loads(done.read_text())
        return Run(changes, seed, {name: Report(**report) for name, report in kept.items()})
    watch = Watch(board, logs_folder(output_of(settings)) / place.name)
    try:
        reports = _train(settings_of_run(settings, changes, seed, place), watch)
    except DiskFull:
        raise  # every other run would meet it too
    except FAILURES as error:
        reason = error.detail if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
        return Run(changes, seed, {}, " ".join(reason.split()))
    with staged(place) as unfinished:
        kept = {name: asdict(report) for name, report in reports.items()}
        (unfinished / DONE_FILE).write_text(json.dumps(kept) + "\n")
    return Run(changes, seed, reports)


def _train(settings: Sequence[TrainSettings], watch: Watch) -> dict[str, Report]:
    if len(settings) > 1:
        return run_multitask(settings, "resume", watch)
    return {settings[0].name: run_training(settings[0], "resume", watch)}


def settings_of_run(
    settings: Sequence[TrainSettings], changes: Mapping[str, Any], seed: int, place: Path
) -> list[TrainSettings]:
    """The settings with one combination and seed, writing to `place`. Raises InvalidRequest if they do not agree."""
    is_single = len(settings) == 1
    own = [{**changes, "seed": seed, "output": place if is_single else place / one.name} for one in settings]
    changed = [_validated(one, wish) for one, wish in zip(settings, own, strict=True)]
    if (changed[0].method == "multitask") == is_single:
        raise InvalidRequest("method multitask, and no other, is for several data sets")
    return changed


def _validated(settings: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    try:
        return TrainSettings.model_validate(settings.model_dump() | dict(changes))
    except ValidationError as error:
        raise InvalidRequest(first_problem(error).sentence) from None


def _chosen(settings: Sequence[TrainSettings], plan: Plan, runs: Sequence[Run]) -> Study:
    """The best combination by the mean of its seeds, and of it the best seed.

    Combinations without a bundle, or of which a run failed, are chosen only where there are no others.
    """
    per_seed = len(plan.seeds)
    parts = [runs[start : start + per_seed] for start in range(0, len(runs), per_seed)]
    combinations = [Combination(part[0].changes, part) for part in parts]
    ranks = [_rank(settings[0], one) for one in combinations]
    best = combinations[ranks.index(max(ranks))]
    if not best.finished:
        raise InvalidRequest(f"none of the {len(runs)} runs finished; {runs[0].key} failed: {runs[0].reason}")
    common = settings[0].model_dump(mode="json", exclude={*OWN_MACHINE, *plan.sweep, "seed"})
    return Study(common, plan, combinations, max(best.finished, key=lambda run: run.score))


def _rank(settings: TrainSettings, combination: Combination) -> tuple[bool, bool, bool, float]:
    if combination.mean is None:
        return (False, False, False, 0.0)
    writes_bundle = not _validated(settings, combination.changes).is_baseline
    return (True, writes_bundle, not combination.failed, combination.mean)


def _publish(settings: Sequence[TrainSettings], study: Study, folder: Path) -> None:
    """The best run's files to their outputs, the study's beside them. The cards say how the run was chosen."""
    place = folder / study.best.key
    best = settings_of_run(settings, study.best.changes, study.best.seed, place)
    for one, run in zip(settings, best, strict=True):
        with staged(one.output) as unfinished:
            for path in run.output.iterdir():
                if path.is_file() and path.name != DONE_FILE:
                    shutil.copyfile(path, unfinished / path.name)
            _write_card(unfinished, run, study, is_beside=len(settings) == 1)
            if len(settings) == 1:
                _write_study(unfinished, study, one.name)
    if len(settings) > 1:
        with staged(output_of(settings)) as unfinished:
            _write_study(unfinished, study, output_of(settings).name)


def _extent(plan: Plan) -> str:
    num_seeds, num_combinations = len(plan.seeds), len(plan.combinations())
    if num_combinations == 1:
        return f"{num_seeds} runs with different seeds"
    if num_seeds == 1:
        return f"{num_combinations} runs with different settings"
    return (
        f"{plan.num_runs} runs ({num_combinations} combinations of settings × {num_seeds} seeds; the combination by "
        "its mean, of it the best seed)"
    )


def _write_study(folder: Path, study: Study, name: str) -> None:
    (folder / STUDY_FILE).write_text(json.dumps(study.as_json(), indent=1) + "\n")
    num_seeds = len(study.plan.seeds)
    title = f"{name}: mean of {num_seeds} seeds" if num_seeds > 1 else f"{name}: seed {study.plan.seeds[0]}"
    draw_study(study.points, study.best.changes, folder / STUDY_PICTURE, title, study.metric)


def _write_card(folder: Path, settings: TrainSettings, study: Study, is_beside: bool) -> None:
    """Baselines have none."""
    manifest = folder / MANIFEST_FILE
    if not manifest.exists():
        return
    pictures = [name for name in PICTURES if (folder / name).exists()]
    lines = [*selection(study)]
    if study.plan.sweep:
        lines += ["", f"![study]({STUDY_PICTURE if is_beside else f'../{STUDY_PICTURE}'})"]
    report = study.best.reports[settings.name]
    card = render_card(settings, parse_manifest(manifest.read_bytes()), report, pictures, lines)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def selection(study: Study) -> list[str]:
    """How the run was chosen, for the card."""
    lines = [
        f"Chosen on dev: the best of {_extent(study.plan)} by {study.metric}. A score that a run was chosen by tends "
        "to be higher than the same adapter's on new data.",
        "",
        f"| combination | mean {study.metric} | standard deviation | runs |",
        "| --- | ---: | ---: | ---: |",
    ]
    for one in study.combinations:
        numbers = ["–" if number is None else f"{number:.4f}" for number in (one.mean, one.deviation)]
        failed = f" ({len(one.failed)} failed)" if one.failed else ""
        name = in_words(one.changes) or "as given"
        lines.append(f"| {name} | {' | '.join(numbers)} | {len(one.finished)}{failed} |")
    return lines
