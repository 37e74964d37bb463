"""Data sources → records, each with its place: the line that it begins on, or its number. Knows no tasks.

Text files come from `datasets` as text and are taken apart here. Its own readers of json and csv give each column one
type for all lines, which turns dates into time stamps, 1 into 1.0 and "NA" into nothing, and they forget the lines.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.decoder import WHITESPACE  # type: ignore[attr-defined]  # the decoder's own idea of white space
from pathlib import Path
from typing import Any, NoReturn

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.data.streams import folder_rows, hub_rows, parquet_rows, text_pieces

ALLOWED = "jsonl, json, csv or tsv (optionally .gz) or parquet"
SEPARATORS = (";", "\t", "|", ",")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Record:
    values: Mapping[str, Any]
    place: str


def read_records(source: str | Path, split: str = "train") -> list[Record]:
    """All records of a file, or of one split of a folder or a hub id. Raises InvalidRequest, naming file and line."""
    path = Path(source)
    form = _form(path)
    if path.is_dir():
        return _numbered(folder_rows(path, split), f"{source} ({split})")
    if form is None and not path.exists() and HUB_ID.fullmatch(str(source)):
        return _numbered(hub_rows(str(source), split), f"{source} ({split})")
    if not path.is_file():
        raise InvalidRequest(
            f"{source} does not exist: give a file ({ALLOWED}), a folder of such files, or a hub id (owner/name)"
        )
    if form == ".parquet":
        return _numbered(parquet_rows(path), str(source))
    if form is None:
        raise InvalidRequest(f"{source} is neither {ALLOWED}, told by its name: convert or rename it")
    return list(TEXT_FORMS[form](path))


def _form(path: Path) -> str | None:
    is_packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if is_packed else path).suffix.lower()
    if suffix in TEXT_FORMS:
        return suffix
    return suffix if suffix == ".parquet" and not is_packed else None


def _numbered(rows: Sequence[Mapping[str, Any]], source: str) -> list[Record]:
    return [Record(row, f"{source}, record {number}") for number, row in enumerate(rows, start=1)]


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield Record(_json_object(line, place), place)


def _json_file(path: Path) -> Iterator[Record]:
    """A list of objects; a file that begins otherwise has one object a line."""
    text = "".join(_pieces(path, "document"))
    at, line = _skip(text, 0, 1)
    if text[at : at + 1] != "[":
        yield from _json_lines(path)
        return
    at, line = _skip(text, at + 1, line)
    while text[at : at + 1] != "]":
        place = f"{path}, line {line}"
        value, end = _next_value(text, at, place)
        yield Record(_as_object(value, place), place)
        line += text.count("\n", at, end)
        at, line = _skip(text, end, line)
        if text[at : at + 1] not in (",", "]"):
            raise InvalidRequest(f"{path}, line {line}: a comma or ] is needed behind an object of the list")
        if text[at] == ",":
            at, line = _skip(text, at + 1, line)
    if text[at + 1 :].strip():
        raise InvalidRequest(f"{path}, line {line}: the list ends here, but the file goes on")


def _skip(text: str, at: int, line: int) -> tuple[int, int]:
    """Past white space: the next place and its line."""
    end: int = WHITESPACE.match(text, at).end()
    return end, line + text.count("\n", at, end)


def _next_value(text: str, at: int, place: str) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{place}: the object that begins here is not JSON ({error})") from None


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        return _as_object(_DECODER.decode(line.rstrip("\r\n")), place)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{place}: not JSON ({_problem(error)}): one object a line is needed") from None


def _problem(error: Exception) -> str:
    """Of a line that is taken alone its own number would only confuse."""
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _as_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place}: a {type(value).__name__} where an object with named columns is needed")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _table(path: Path, dialect: type[csv.Dialect]) -> Iterator[Record]:
    """Each record at the line that it begins on: quoted cells may hold line breaks."""
    reader = csv.reader(_lines(path), dialect, strict=True)
    header: list[str] | None = None
    for cells, line in _rows_with_lines(reader, path):
        if not cells:
            continue
        if header is None:
            header = _checked_header(cells, dialect.delimiter, f"{path}, line {line}")
        elif len(cells) != len(header):
            raise InvalidRequest(
                f"{path}, line {line}: {len(cells)} cells where the header names {len(header)}: quote cells that hold "
                "a separator or a line break"
            )
        else:
            yield Record(dict(zip(header, cells, strict=True)), f"{path}, line {line}")


def _rows_with_lines(reader: Any, path: Path) -> Iterator[tuple[list[str], int]]:
    """`reader` counts the lines that it has taken, so a row begins on the one after those."""
    while True:
        line = reader.line_num + 1
        try:
            yield next(reader), line
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidRequest(
                f"{path}, line {line}: the record that begins here cannot be read ({error}): close every quote, and "
                "double those inside quoted cells"
            ) from None


def _checked_header(names: list[str], delimiter: str, place: str) -> list[str]:
    others = [mark for mark in SEPARATORS if mark != delimiter and mark in names[0]]
    if len(names) == 1 and others:
        raise InvalidRequest(
            f"{place}: the header is one cell with {others[0]!r} in it: the cells of a csv are separated by commas, "
            "those of a tsv by tabs"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"{place}: the header names {twice} twice: each column needs a name of its own")
    return names


def _lines(path: Path) -> list[str]:
    return _pieces(path, "line")


def _pieces(path: Path, by: Any) -> list[str]:
    try:
        return text_pieces(path, by)
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise InvalidRequest(
            f"{path}, {_breaking_place(path)}: cannot be read ({error}): UTF-8 text is needed, gzipped for .gz"
        ) from None


def _breaking_place(path: Path) -> str:
    """Read again, line by line: whole blocks fail where `datasets` reads."""
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for line in file:
                number += 1
                line.decode()
    except UnicodeDecodeError:
        return f"line {number}"
    except (OSError, EOFError, zlib.error):
        return f"behind line {number}"
    return f"behind line {number}"


TEXT_FORMS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json_file,
    ".csv": lambda path: _table(path, csv.excel),
    ".tsv": lambda path: _table(path, csv.excel_tab),
}
