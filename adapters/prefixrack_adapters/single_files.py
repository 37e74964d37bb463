"""A file that a command writes where the user said: checked before the work, whole or not there after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefixrack.errors import InvalidRequest


def check_place(path: Path, kinds: Sequence[str], what: str) -> None:
    """Raises InvalidRequest for another ending than these, and for a folder that there is not."""
    if path.suffix.lower() not in kinds:
        raise InvalidRequest(f"{path} is no {' or '.join(kinds)}: name the {what} so")
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path.parent} is no folder: make it first")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another path of the same ending to write to, which takes the file's place in one step.

    Raises InvalidRequest where it cannot be written; then the file is as it was.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InvalidRequest(f"{path} cannot be written ({error.strerror}): choose another place") from None
