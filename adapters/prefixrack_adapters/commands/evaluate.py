"""`prefixrack evaluate`. Knows options and the order of things; who is measured and how scores come are elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from prefixrack.errors import Fault, InvalidRequest
from prefixrack_adapters.commands.answer_file import check_answer_file, write_answers
from prefixrack_adapters.commands.idle_options import refuse_idle_of_evaluate
from prefixrack_adapters.commands.measuring import (
    LocalBundle,
    Subject,
    local_bundles,
    read_for,
    served_adapter,
    session_at,
)
from prefixrack_adapters.commands.score_tables import (
    Measured,
    comparison_as_json,
    evaluation_as_json,
    print_classes,
    print_comparison,
    print_evaluation,
)
from prefixrack_adapters.commands.shared import column_mapping, printable, quiet_transformers, refuse
from prefixrack_adapters.embedded import EMBEDDED

if TYPE_CHECKING:
    from prefixrack_adapters.comparison import Comparison
    from prefixrack_adapters.training.data import Example

DEFAULT_SPLIT = "dev"  # under which training writes its scores
HUB_SPLIT = "validation"
MOST_LABELS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the options concerns the data and what is done with the result."""

    data: str
    columns: Mapping[str, str]
    input_format: str | None
    split: str | None
    dataset: str
    picture: Path | None
    answers: Path | None
    bundle: Path | None  # where the scores are written


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown of the first subject, and of the other one where two are compared."""

    measured: Sequence[Measured]
    without_prefix: Mapping[str, float]
    comparison: Comparison | None
    digest: str | None = None


def evaluate(
    context: typer.Context,
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Folder of a bundle; with --server, name or name@alias.")
    ],
    data: Annotated[str, typer.Option(help="jsonl, csv or parquet, optionally .gz, or a hub id.")],
    against: Annotated[str | None, typer.Option(help="Another one to compare with, on the same data.")] = None,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Measure an adapter on this server.")] = None,
    backbone: Annotated[str, typer.Option(help="Folder, hub id, or 'embedded'.")] = EMBEDDED,
    columns: Annotated[list[str] | None, typer.Option("--column", help="canonical=yours; repeat as needed.")] = None,
    input_format: Annotated[str | None, typer.Option(help="The file's form; the adapter's own by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a hub id; also what --write notes, 'dev' by default.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data for --write; the file's by default.")] = None,
    confusion: Annotated[Path | None, typer.Option(help="Draw the confusion matrix into this .svg or .png.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write each example's answers into this .jsonl.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the scores into the bundle's manifest.")] = False,
    device: str = "auto",
    dtype: str = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Score a bundle or a served adapter on a data file, alone or against another."""
    refs = [bundle] if against is None else [bundle, against]
    name, target = dataset or Path(data).name, Path(bundle) if write else None
    try:
        if write and server is not None:
            raise InvalidRequest(
                "--write is for a bundle's folder, a version on a server never changes: pull it, write, push it again"
            )
        refuse_idle_of_evaluate(context)
        asked = Asked(data, column_mapping(columns or []), input_format, split, name, confusion, predictions, target)
        if server is None:
            quiet_transformers()
            _report(asked, local_bundles([Path(ref) for ref in refs], backbone, device, dtype), as_json)
        else:
            with session_at(context.obj, server).open_client() as rack:
                _report(asked, [served_adapter(rack, ref) for ref in refs], as_json)
    except Fault as fault:
        refuse(fault)


def _report(asked: Asked, subjects: Sequence[Subject], as_json: bool) -> None:
    """Measure, draw and write what is asked for, and only then print."""
    from prefixrack_adapters.comparison import compare

    _check(asked, subjects)
    examples = [_read(asked, subject) for subject in subjects]
    measured = [_measure(*pair) for pair in zip(subjects, examples, strict=True)]
    comparison = compare(measured[0].result, measured[1].result) if len(measured) == 2 else None
    bare = {} if comparison is not None else _without_prefix(subjects[0], examples[0])
    if asked.picture is not None:
        _draw(asked, measured[0], asked.picture)
    if asked.answers is not None:
        write_answers(asked.answers, examples[0], measured)
    digest = _write(asked, measured[0], asked.bundle) if asked.bundle is not None else None
    report = Report(measured, bare, comparison, digest)
    if as_json:
        typer.echo(json.dumps(_as_json(report)))
    else:
        _print(report, asked.dataset)


def _check(asked: Asked, subjects: Sequence[Subject]) -> None:
    """Raises InvalidRequest before anything is measured for what could not come to an end."""
    from prefixrack_adapters.confusion import check_picture

    tasks = [(one.facts.task, one.facts.problem) for one in subjects]
    if len(set(tasks)) > 1:
        raise InvalidRequest(f"one does {tasks[0]}, the other {tasks[1]}: compare adapters of the same task")
    if asked.answers is not None:
        check_answer_file(asked.answers, asked.data)
    if asked.picture is not None:
        check_picture(asked.picture)
        if tasks[0] != ("text-classification", "single_label"):
            raise InvalidRequest(f"{tasks[0]} has no confusion matrix: one label per text has. Leave --confusion out")


def _read(asked: Asked, subject: Subject) -> list[Example]:
    """The examples as this one takes them."""
    examples = read_for(subject.facts, asked.data, asked.columns, asked.input_format, asked.split or HUB_SPLIT)
    _warn_of_unknown_labels(subject, examples)
    return examples


def _measure(subject: Subject, examples: Sequence[Example]) -> Measured:
    from prefixrack_adapters.bootstrap import intervals
    from prefixrack_adapters.scoring import judge

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        row = progress.add_task(printable(subject.name), total=subject.num_steps(examples))
        outputs = subject.answer(examples, lambda rows: progress.advance(row, rows))
    result = judge(subject.facts, outputs, examples)
    return Measured(subject.name, result, intervals(result.tally), outputs)


def _warn_of_unknown_labels(subject: Subject, examples: Sequence[Example]) -> None:
    """Such examples can only be wrong: a score may say more about the names of labels than about the adapter."""
    from prefixrack_adapters.training.data import CandidateLabels, labels_of

    if isinstance(examples[0].target, CandidateLabels):
        return
    unknown = [name for name in labels_of(subject.facts.task, examples) if name not in subject.facts.labels]
    if unknown:
        shown = ", ".join(unknown[:MOST_LABELS]) + (" …" if len(unknown) > MOST_LABELS else "")
        note = f"{subject.name} does not have these labels of the data, and gets them wrong: {shown}"
        Console(stderr=True, highlight=False, soft_wrap=True).print(printable(note), style="yellow")


def _without_prefix(subject: Subject, examples: Sequence[Example]) -> Mapping[str, float]:
    """The same head on the bare backbone. Of a served adapter nothing is known of that."""
    return _measure(subject.without_prefix(), examples).result.scores if isinstance(subject, LocalBundle) else {}


def _draw(asked: Asked, measured: Measured, picture: Path) -> None:
    from prefixrack_adapters.confusion import draw_confusion

    confusion = measured.result.confusion
    if confusion is None:
        raise InvalidRequest("this data labels candidates: it has no confusion matrix. Leave --confusion out")
    draw_confusion(confusion, picture, f"{measured.name} on {asked.dataset}")


def _write(asked: Asked, measured: Measured, bundle: Path) -> str:
    from prefixrack_adapters.claims import claims_of, write_claims

    result, split = measured.result, asked.split or DEFAULT_SPLIT
    return write_claims(bundle, claims_of(result.scores, asked.dataset, split, result.num_examples))


def _as_json(report: Report) -> dict[str, Any]:
    first, *others = report.measured
    shown = evaluation_as_json(first) | {"without_prefix": dict(report.without_prefix), "digest": report.digest}
    for other in others:
        shown["against"] = evaluation_as_json(other)
    if report.comparison is not None:
        shown["comparison"] = comparison_as_json(report.comparison, *(one.name for one in report.measured))
    return shown


def _print(report: Report, dataset: str) -> None:
    first, *others = report.measured
    beside = {other.name: other.result.scores for other in others}
    if report.without_prefix:
        beside["prefix removed"] = dict(report.without_prefix)
    print_evaluation(f"{first.name} on {dataset}", first, beside)
    print_classes(first.result.classes)
    if report.comparison is not None:
        print_comparison(report.comparison, *(one.name for one in report.measured))
    if report.digest is not None:
        typer.echo(f"written; the bundle's digest is now {report.digest}")
