"""Data sources → checked examples, and what their targets say together. Knows no tokens and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.formats import FORMATS, PLAIN, Format
from prefixrack_adapters.training.data.candidates import CANDIDATE_LABELS, CANDIDATE_READERS
from prefixrack_adapters.training.data.columns import Columns, OwnNames
from prefixrack_adapters.training.data.examples import CandidateLabels, Example, GoldAnswers, Similarity, Target
from prefixrack_adapters.training.data.readers import READERS, reader_of
from prefixrack_adapters.training.data.records import read_records

__all__ = [
    "CandidateLabels",
    "Example",
    "GoldAnswers",
    "Similarity",
    "Target",
    "check_known_labels",
    "check_labels",
    "labels_of",
    "problem_of",
    "read_examples",
]


def read_examples(
    source: str | Path, task: str, columns: Mapping[str, str], input_format: str = PLAIN, split: str = "train"
) -> list[Example]:
    """Every example of a file, or of one split of a folder or a hub id (`owner/name`, `owner/name:config`).

    With another format than plain, inputs keep the data set's own fields, which the adapter's task puts into words.
    Raises InvalidRequest, naming the file, the line and the column that is wrong.
    """
    form = _form_of(task, input_format)
    names = OwnNames(columns)
    rows = _with_unique_ids(Columns(record, names) for record in read_records(source, split))
    if input_format in CANDIDATE_READERS:
        examples = list(CANDIDATE_READERS[input_format](rows))
    else:
        read = reader_of(task, form)
        examples = [Example(*read(row), row.place) for row in rows]
    if not examples:
        of_split = "" if Path(source).is_file() else f" (split {split!r})"
        raise InvalidRequest(f"{source}{of_split} holds no record: at least one is needed")
    names.check_used(source)
    _check_same_kind(examples)
    return examples


def _form_of(task: str, input_format: str) -> Format | None:
    if task not in READERS:
        raise InvalidRequest(f"task {task!r} is not known; allowed: {', '.join(READERS)}")
    form = FORMATS.get(input_format)
    if input_format != PLAIN and (form is None or form.task != task):
        fitting = [PLAIN, *(one.name for one in FORMATS.values() if one.task == task)]
        raise InvalidRequest(f"input format {input_format!r} is none of task {task!r}; allowed: {', '.join(fitting)}")
    return form


def _with_unique_ids(rows: Iterable[Columns]) -> Iterator[Columns]:
    """Where there is a column `id`, it says that a record that comes twice is a mistake."""
    place_of: dict[str, str] = {}
    for row in rows:
        one = row.find("id")
        if one is not None and place_of.setdefault(str(one), row.place) != row.place:
            raise row.fault(f"id {one!r} stands at {place_of[str(one)]} already: make ids unique, or drop the column")
        yield row


def _check_same_kind(examples: Sequence[Example]) -> None:
    """One head learns one kind of target."""
    first = examples[0]
    for example in examples:
        if _kind(example.target) != _kind(first.target):
            raise InvalidRequest(
                f"{example.place}: the target is {_kind(example.target)}, but {first.place} has {_kind(first.target)}: "
                "all records need the same kind"
            )


def _kind(target: Target) -> str:
    match target:
        case str():
            return "one label"
        case float():
            return "a number"
        case tuple():
            return "a list of labels"
        case Similarity(score=None):
            return "a pair without a score"
        case Similarity():
            return "a pair with a score"
    return "a target"


def check_known_labels(
    task: str, labels: Sequence[str], examples: Sequence[Example], source: str = "the training data"
) -> None:
    """Raises InvalidRequest with the place of the first target that is none of `labels`, which `source` gave."""
    allowed = set(labels)
    for example in examples:
        unknown = sorted(set(_names(example.target)) - allowed)
        if unknown:
            every = sorted(set(labels_of(task, examples)) - allowed)
            raise InvalidRequest(
                f"{example.place}: label {unknown[0]!r} is not known: the file has labels that {source} lacks: "
                f"{every[:5]}; allowed: {', '.join(labels[:20]) or 'numbers only'}"
            )
        if labels and isinstance(example.target, float):
            raise InvalidRequest(f"{example.place}: a number, {example.target}, where {source} has labels")


def check_labels(task: str, problem: str, labels: Sequence[str], source: str | Path) -> None:
    """Raises InvalidRequest where all answers would be the same: a head learns that at once, and nothing else."""
    if task == "token-classification" and set(labels) == {"O"}:
        raise InvalidRequest(f"every tag of {source} is 'O': spans to find are needed, tagged B-x and I-x")
    if task == "text-classification" and problem == "single_label" and len(labels) < 2:
        raise InvalidRequest(f"the only label of {source} is {labels[0]!r}: two at least are needed to tell apart")


def _names(target: Target) -> tuple[str, ...]:
    match target:
        case tuple() as several:
            return several
        case str() as one:
            return (one,)
        case CandidateLabels(labels=labels):
            return labels
    return ()


def problem_of(task: str, examples: Sequence[Example]) -> str:
    """single_label, multi_label or regression, told by the targets' type."""
    if task != "text-classification":
        return "single_label"
    kind = type(examples[0].target)
    return {tuple: "multi_label", float: "regression"}.get(kind, "single_label")


def labels_of(task: str, examples: Sequence[Example]) -> list[str]:
    """The labels that occur, sorted, "O" first for tags; both of candidates; none where outputs have no names."""
    if any(isinstance(example.target, CandidateLabels) for example in examples):
        return list(CANDIDATE_LABELS)
    seen = {name for example in examples for name in _names(example.target)}
    return sorted(seen, key=lambda label: (label != "O", label.partition("-")[2], label))
