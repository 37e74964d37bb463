"""A file of inputs into a file of answers, in an order of its own and resumable. Knows files; sends nothing.

Answers go to `TARGET.part`; beside it `TARGET.part.json` says how far they go, in bytes of both files. When all are
there the part takes the target's name: a target is whole or it is not there.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from prefixrack.lines import FileLine, answer_of, parse_line
from prefixrack.types import (
    AnyOutput,
    BulkLine,
    ChoiceOutput,
    ClassificationOutput,
    EntityOutput,
    MultiLabelOutput,
    QuestionAnsweringOutput,
    RegressionOutput,
)

JSON_LINES = (".jsonl", ".ndjson", ".json")
CSV = ".csv"
INPUT_COLUMNS = ("text", "text_pair", "question", "context", "title")
PREDICTED = ("predicted", "predicted_score", "predicted_output", "predicted_error")
MAX_BROKEN_IN_A_ROW = 10_000
CHECKPOINT_RECORDS = 256

FileProgress = Callable[[int, int], None]  # bytes of the source that are answered, and all of them


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What a run did; `num_resumed` inputs of them were answered by an earlier one, failed ones not counted again."""

    num_inputs: int
    num_failed: int
    num_resumed: int
    adapter: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the part goes, and what makes it the same work: resuming anything else would mix two results."""

    work: Mapping[str, Any]
    adapter: str
    num_inputs: int = 0
    num_failed: int = 0
    source_bytes: int = 0
    part_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the source: the input as a line, where it ends, and in csv its cells."""

    line: FileLine
    end: int
    cells: Mapping[str, str]


class Source(Protocol):
    @property
    def columns(self) -> Sequence[str]: ...

    def records(self, start: int, index: int) -> Iterator[Record]:
        """Records from byte `start`, the first of them numbered `index`; from 0, all of them."""


class FileMap:
    """One run over one file. Use it as a context manager: what was answered is kept, however it ends."""

    def __init__(
        self,
        source: str | Path,
        target: str | Path,
        adapter: str,
        parameters: Mapping[str, Any],
        *,
        columns: Sequence[str] | None = None,
        resume: bool = True,
        progress: FileProgress | None = None,
    ) -> None:
        self._source_path, self._target = Path(source), Path(target)
        _check_suffix(self._target)
        self._part = self._target.with_name(self._target.name + ".part")
        self._state = self._part.with_name(self._part.name + ".json")
        seen = self._source_path.stat()
        self._total = seen.st_size
        self._work = {
            "source": str(self._source_path.resolve()),
            "source_size": seen.st_size,
            "source_mtime_ns": seen.st_mtime_ns,
            "adapter": adapter,
            "parameters": dict(parameters),
            "columns": None if columns is None else list(columns),
        }
        self._columns = columns
        self._progress = progress
        self._found = self._find() if resume else None
        self._waiting: deque[Record] = deque()
        self._file: BinaryIO | None = None

    @property
    def resumed_adapter(self) -> str | None:
        """The version, as `name@7`, that an earlier run of the same work was answered by."""
        return None if self._found is None else self._found.adapter

    def start(self, adapter: str) -> str:
        """Bind the run to one version, and give it: an alias that moves meanwhile does not divide the file."""
        found = self._found if self._found is not None else Checkpoint(self._work, adapter)
        self._resumed, self._adapter = found.num_inputs, found.adapter
        self._num_inputs, self._num_failed, self._source_end = found.num_inputs, found.num_failed, found.source_bytes
        self._source = _open_source(self._source_path, self._columns)
        self._writer = _writer_of(self._target, self._source.columns)
        self._file = self._part.open("r+b" if self._found is not None else "w+b")
        self._file.truncate(found.part_bytes)
        self._file.seek(0, os.SEEK_END)
        if not found.part_bytes:
            self._file.write(self._writer.head())
        return self._adapter

    def inputs(self) -> Iterator[Any]:
        """Good inputs in order. Faulty records are answered here, as soon as all before them are."""
        num_broken = 0
        for record in self._source.records(self._source_end, self._num_inputs):
            self._waiting.append(record)
            if record.line.error is None:
                num_broken = 0
                yield record.line.given
                continue
            num_broken += 1
            if num_broken > MAX_BROKEN_IN_A_ROW:
                raise ValueError(
                    f"{MAX_BROKEN_IN_A_ROW} records in a row of {self._source_path} are unusable, the last one because "
                    f"{record.line.error.message}: is this the right file?"
                )
            if len(self._waiting) == num_broken:
                self._write_broken()

    def take(self, output: AnyOutput) -> None:
        """The answer to the earliest input that has none."""
        self._write_broken()
        record = self._waiting.popleft()
        self._write(record, answer_of(record.line, output))

    def finish(self) -> FileSummary:
        """All is answered: the part becomes the target."""
        self._write_broken()
        self._close()
        self._part.replace(self._target)
        self._state.unlink(missing_ok=True)
        return FileSummary(self._num_inputs, self._num_failed, self._resumed, self._adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None and not self._file.closed:
            self._save()
            self._file.close()

    def _write_broken(self) -> None:
        while self._waiting and self._waiting[0].line.error is not None:
            record = self._waiting.popleft()
            line = record.line
            self._write(record, BulkLine(index=line.index, id=line.id, error=line.error))

    def _write(self, record: Record, answer: BulkLine) -> None:
        assert self._file is not None, "start() comes first"
        self._file.write(self._writer.encode(record, answer))
        self._num_inputs += 1
        self._num_failed += answer.error is not None
        self._source_end = record.end
        if self._num_inputs % CHECKPOINT_RECORDS == 0:
            self._save()
        if self._progress is not None:
            self._progress(record.end, self._total)

    def _save(self) -> None:
        """Answers first, then what counts them: after a crash the count is never ahead."""
        assert self._file is not None, "start() comes first"
        self._file.flush()
        os.fsync(self._file.fileno())
        checkpoint = Checkpoint(
            self._work, self._adapter, self._num_inputs, self._num_failed, self._source_end, self._file.tell()
        )
        fresh = self._state.with_name(self._state.name + ".new")
        fresh.write_text(json.dumps(asdict(checkpoint)), encoding="utf-8")
        fresh.replace(self._state)

    def _find(self) -> Checkpoint | None:
        """What an earlier run left. Raises ValueError where that was other work."""
        if not self._state.exists() or not self._part.exists():
            return None
        try:
            found = Checkpoint(**json.loads(self._state.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            return None
        changed = [name for name, value in self._work.items() if found.work.get(name) != value]
        if changed:
            raise ValueError(
                f"{self._part} is of another run (different: {', '.join(changed)}): give resume=False to begin anew, "
                "or another target"
            )
        return found if self._part.stat().st_size >= found.part_bytes else None


class JsonLinesSource:
    columns = ("id",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self, start: int, index: int) -> Iterator[Record]:
        with self._path.open("rb") as file:
            file.seek(start)
            end = start
            for raw in file:
                end += len(raw)
                text = raw.removeprefix(b"\xef\xbb\xbf") if end == len(raw) else raw
                if not text.strip():
                    continue
                line = parse_line(index, text)
                yield Record(line, end, {"id": "" if line.id is None else str(line.id)})
                index += 1


class CsvSource:
    """A table with a header. An input is the cell of its one column, or an object of the cells of several."""

    def __init__(self, path: Path, columns: Sequence[str] | None) -> None:
        self._path = path
        with path.open("rb") as file:
            header, self._header_end = next(_csv_rows(file, 0), ([], 0))
        self.columns: Sequence[str] = header
        self._inputs = _input_columns(path, header, columns)

    def records(self, start: int, index: int) -> Iterator[Record]:
        begin = max(start, self._header_end)
        with self._path.open("rb") as file:
            file.seek(begin)
            for number, (row, end) in enumerate(_csv_rows(file, begin), index):
                cells = dict(zip(self.columns, row, strict=False))
                values = {name: cells.get(name, "") for name in self._inputs}
                given = values[self._inputs[0]] if len(values) == 1 else values
                yield Record(FileLine(number, given=given), end, cells)


class JsonLinesWriter:
    def head(self) -> bytes:
        return b""

    def encode(self, record: Record, answer: BulkLine) -> bytes:
        return answer.model_dump_json(exclude_none=True).encode() + b"\n"


class CsvWriter:
    """The source's columns, and beside them what was predicted, its score, all of the output as JSON, or the error."""

    def __init__(self, columns: Sequence[str]) -> None:
        taken = sorted(set(columns) & set(PREDICTED))
        if taken:
            raise ValueError(f"the source has the column {taken[0]!r} already: rename it, or write .jsonl")
        self._columns = tuple(columns)

    def head(self) -> bytes:
        return _csv_line([*self._columns, *PREDICTED])

    def encode(self, record: Record, answer: BulkLine) -> bytes:
        cells = [record.cells.get(name, "") for name in self._columns]
        if answer.output is None:
            assert answer.error is not None, "a line has an output or an error"
            return _csv_line([*cells, "", "", "", answer.error.code])
        predicted, score = _in_short(answer.output)
        whole = answer.output.model_dump_json(exclude_none=True)
        return _csv_line([*cells, predicted, score, whole, ""])


def _in_short(output: AnyOutput) -> tuple[str, str]:
    """The answer in a cell and its score, where the task has such a thing."""
    match output:
        case ClassificationOutput():
            return output.label, f"{output.score:.6g}"
        case MultiLabelOutput():
            return " ".join(one.label for one in output.labels), ""
        case RegressionOutput():
            return f"{output.value:.6g}", ""
        case QuestionAnsweringOutput():
            return ("", "") if output.answer is None else (output.answer.text, f"{output.answer.score:.6g}")
        case ChoiceOutput():
            return str(output.choice), f"{output.scores[output.choice]:.6g}"
        case EntityOutput():
            return output.entity, f"{output.score:.6g}"
        case _:
            return "", ""


def _csv_line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _csv_rows(file: BinaryIO, start: int) -> Iterator[tuple[list[str], int]]:
    """Rows with the byte at which each ends; a cell may hold line ends."""
    end = start

    def lines() -> Iterator[str]:
        nonlocal end
        for raw in file:
            text = raw.removeprefix(b"\xef\xbb\xbf") if end == 0 else raw
            end += len(raw)
            yield text.decode("utf-8", "surrogateescape")

    for row in csv.reader(lines()):
        if row:
            yield row, end


def _input_columns(path: Path, header: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    wanted = list(asked) if asked is not None else [name for name in INPUT_COLUMNS if name in header]
    missing = [name for name in wanted if name not in header]
    if missing or not wanted:
        shown = ", ".join(header) or "none"
        raise ValueError(
            f"{path} has the columns {shown}: give columns=[…] with those that make an input; "
            f"by default {', '.join(INPUT_COLUMNS)}"
        )
    return wanted


def _open_source(path: Path, columns: Sequence[str] | None) -> Source:
    _check_suffix(path)
    return CsvSource(path, columns) if path.suffix.lower() == CSV else JsonLinesSource(path)


def _writer_of(target: Path, columns: Sequence[str]) -> JsonLinesWriter | CsvWriter:
    return CsvWriter(columns) if target.suffix.lower() == CSV else JsonLinesWriter()


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in (*JSON_LINES, CSV):
        raise ValueError(f"{path}: its name must end in .jsonl or .csv")
