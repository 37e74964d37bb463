"""Data files → examples. Reads jsonl and csv, plain or gzipped; knows the tasks' shapes, no tokens and no torch."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.formats import FORMATS, PLAIN, Format

# Column names that public data sets use, tried in order after the canonical one.
KNOWN_NAMES: Mapping[str, Sequence[str]] = {
    "text": ("premise", "sentence1", "sentence", "question"),
    "text_pair": ("hypothesis", "sentence2", "passage"),
    "value": ("score",),
    "labels": (),
    "tags": ("ner_tags",),
    "tokens": ("words",),
}
CONNECTIVES = {"cause": " because", "effect": " so"}  # SuperGLUE's COPA, as P-Tuning v2 formats it


@dataclass(frozen=True, slots=True)
class GoldAnswers:
    """Acceptable answers of a question; none means that the context does not answer it."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CandidateLabels:
    """A label for each candidate of an input, by its name."""

    names: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike the two texts of a pair are; None: they belong together, nothing else is known."""

    score: float | None


Target = str | float | int | tuple[str, ...] | GoldAnswers | CandidateLabels | Similarity


@dataclass(frozen=True, slots=True)
class Example:
    """`input` has the shape that the served task takes; `target` is a label, several, a number, tags or answers."""

    input: Any
    target: Target
    place: str = ""


def read_examples(
    source: str | Path, task: str, columns: Mapping[str, str], input_format: str = PLAIN, split: str = "train"
) -> list[Example]:
    """Every example of a file. Raises InvalidRequest, naming the file, the line and the column that is wrong.

    With another format than plain, inputs keep the data set's own fields, which the adapter's task puts into words.
    """
    path = Path(source)
    read = reader_of(task, input_format)
    examples = []
    for number, record in enumerate(_records(path), start=1):
        try:
            examples.append(read(_Columns(record, columns)))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{path}, record {number}: {error} (task {task}; map names with --column)") from None
    if not examples:
        raise InvalidRequest(f"{path} holds no record: at least one is needed")
    return examples


class _Columns:
    """One record under canonical names: the caller's mapping first, then the names that data sets use."""

    def __init__(self, record: Mapping[str, Any], mapping: Mapping[str, str]) -> None:
        self._record = record
        self._mapping = mapping

    def find(self, name: str) -> Any:
        """The value, or None where the record has no such column."""
        if name in self._mapping:
            return self._mapped(self._mapping[name])
        names = (name, *KNOWN_NAMES.get(name, ()))
        return next((self._record[known] for known in names if self._record.get(known) is not None), None)

    def get(self, name: str) -> Any:
        value = self.find(name)
        if value is None:
            raise ValueError(f"no column {name!r} among {self._names}")
        return value

    def find_any(self, names: Sequence[str]) -> Any:
        """The first of these that the caller maps or that the record has under this very name."""
        mapped = next((self._mapped(self._mapping[name]) for name in names if name in self._mapping), None)
        return mapped if mapped is not None else next((self._record[one] for one in names if one in self._record), None)

    def is_mapped(self, name: str) -> bool:
        return name in self._mapping

    def _mapped(self, name: str) -> Any:
        if name not in self._record:
            raise ValueError(f"no column {name!r}, which --column names, among {self._names}")
        return self._record[name]

    @property
    def _names(self) -> list[str]:
        return sorted(str(name) for name in self._record)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    readers: dict[str, Callable[[IO[str]], Iterator[dict[str, Any]]]] = {".jsonl": _json_lines, ".csv": csv.DictReader}
    if stem.suffix not in readers:
        raise InvalidRequest(f"{path} is neither jsonl nor csv (optionally .gz): convert it to one of them")
    if not path.is_file():
        raise InvalidRequest(f"{path} does not exist: give the path of a jsonl or csv file")
    try:
        with _opened(path) as file:
            yield from readers[stem.suffix](file)
    except (UnicodeDecodeError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise InvalidRequest(f"{path} cannot be read ({error}): UTF-8 text is needed, gzipped for .gz") from None


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _json_lines(file: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _json_object(line, f"{getattr(file, 'name', 'the file')}, line {number}")


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{place}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise InvalidRequest(f"{place}: a {type(record).__name__} where an object with named columns is needed")
    return record


def _text_classification(row: _Columns) -> Example:
    pair = row.find("text_pair")
    text = row.get("text")
    return Example(text if pair is None else {"text": text, "text_pair": pair}, _class_target(row))


def _class_target(row: _Columns) -> Target:
    """`labels` (a list, or names joined by |) for several, `value` or `score` for a number, else `label`."""
    if row.is_mapped("value"):
        return float(row.get("value"))
    labels, label = row.find("labels"), row.find("label")
    if labels is not None:
        return tuple(labels.split("|") if isinstance(labels, str) else labels)
    return float(row.get("value")) if label is None else str(label)


def _token_classification(row: _Columns) -> Example:
    tokens, tags = row.get("tokens"), row.get("tags")
    tokens, tags = (value.split() if isinstance(value, str) else value for value in (tokens, tags))
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"tags are {_shown(tags)}: names are needed (B-x, I-x, O), not numbers")
    if len(tokens) != len(tags):
        raise ValueError(f"{len(tokens)} tokens but {len(tags)} tags: one tag per token is needed")
    return Example({"tokens": list(tokens)}, tuple(tags))


def _question_answering(row: _Columns) -> Example:
    value = {"question": row.get("question"), "context": row.get("context")}
    return Example(value, _gold_answers(row.find("answers") or {"text": [], "answer_start": []}))


def _gold_answers(answers: Any) -> GoldAnswers:
    """SQuAD's form; both lists are empty where the context holds no answer."""
    fields = answers if isinstance(answers, dict) else {}
    texts, starts = fields.get("text"), fields.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ValueError(
            f"answers is {_shown(answers)}: an object with lists text and answer_start of equal length is needed"
        )
    return GoldAnswers(tuple(texts), tuple(starts))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _multiple_choice(row: _Columns) -> Example:
    choices = row.find("choices") or [row.get("choice1"), row.get("choice2")]
    text, question = row.get("text"), row.find("question")
    if question in CONNECTIVES:
        text += CONNECTIVES[question]
    label = int(row.get("label"))
    if not 0 <= label < len(choices):
        raise ValueError(f"label {label} names none of {len(choices)} choices: they count from 0")
    return Example({"text": text, "choices": list(choices)}, label)


def _tags_target(row: _Columns) -> Target:
    return _token_classification(row).target


# Of the tasks whose formats are not read by the plain reader all the same (copa's and squad's are).
TARGETS: Mapping[str, Callable[[_Columns], Target]] = {
    "text-classification": _class_target,
    "token-classification": _tags_target,
}
CANDIDATE_FORMATS = ("multirc", "record")
READERS: Mapping[str, Callable[[_Columns], Example]] = {
    "text-classification": _text_classification,
    "token-classification": _token_classification,
    "question-answering": _question_answering,
    "multiple-choice": _multiple_choice,
}


def reader_of(task: str, input_format: str) -> Callable[[_Columns], Example]:
    """Raises InvalidRequest where a file's records have no target to learn or to score."""
    if task not in READERS:
        raise InvalidRequest(
            f"task {task!r} can be imported and served, but neither trained nor scored here; allowed: "
            f"{', '.join(READERS)}"
        )
    if input_format in CANDIDATE_FORMATS:
        raise InvalidRequest(
            f"input format {input_format!r} has no label of its own for each record: give the pairs that it makes as "
            "text and text_pair, one a record, to an adapter of input format 'plain'"
        )
    form = FORMATS.get(input_format)
    if form is None or task not in TARGETS:
        return READERS[task]
    return lambda row: Example(_own_fields(row, form), TARGETS[task](row))


def _own_fields(row: _Columns, form: Format) -> dict[str, Any]:
    found = {field.name: row.find_any(field.names) for field in form.fields}
    missing = [field.name for field in form.fields if found[field.name] is None and not field.is_optional]
    if missing:
        raise ValueError(f"no column {missing[0]!r} of input format {form.name!r}")
    return {name: value for name, value in found.items() if value is not None}


def check_dev_labels(task: str, labels: Sequence[str], dev: Sequence[Example]) -> None:
    unknown = sorted(set(labels_of(task, dev)) - set(labels)) if labels else []
    if unknown:
        raise InvalidRequest(f"dev has labels that the training data lacks: {unknown[:5]}")


def problem_of(task: str, examples: Sequence[Example]) -> str:
    """single_label, multi_label or regression, told by the targets' type."""
    if task != "text-classification":
        return "single_label"
    kind = type(examples[0].target)
    return {tuple: "multi_label", float: "regression"}.get(kind, "single_label")


def labels_of(task: str, examples: Sequence[Example]) -> list[str]:
    """The labels that occur, sorted, "O" first for tags; empty for tasks whose outputs have no names."""
    seen: set[str] = set()
    for example in examples:
        match example.target:
            case tuple() as several:
                seen.update(several)
            case str() as one:
                seen.add(one)
            case _:
                return []
    return sorted(seen, key=lambda label: (label != "O", label.partition("-")[2], label))
