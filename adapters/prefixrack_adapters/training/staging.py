"""Where a run keeps what is not finished: files appear in their folder whole or not at all. Knows no training."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefixrack.errors import DiskFull, InvalidRequest

RUN_FILE = "run.json"


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write in. Left without an error, its files replace those of `output` one by one.

    Raises DiskFull; whatever goes wrong, `output` is as it was.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder, told_if_full(output):
            yield Path(folder)
            output.mkdir(exist_ok=True)
            for path in sorted(Path(folder).iterdir()):
                path.replace(output / path.name)
    except NotADirectoryError as error:
        raise InvalidRequest(f"{output} cannot be written ({error}): give a folder as --output") from None


@contextmanager
def told_if_full(place: Path) -> Iterator[None]:
    """Any library's complaint of a full disk as the one error that names the place and the way on."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"the disk is full: {place} could not be written and is as it was; make room and run the same command "
            "with --resume"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Libraries in other languages wrap the number into their own exceptions, with the system's words in the text."""
    chain: BaseException | None = error
    while chain is not None:
        if getattr(chain, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


class Workspace:
    """The folder beside the output where checkpoints lie until the run is finished.

    `asked` is all that shapes the result. A folder that an earlier run left is gone on with only where the same is
    asked for again, and only if the caller says so.
    """

    def __init__(self, output: Path, asked: Mapping[str, Any]) -> None:
        self.folder = output.parent / f"{output.name}.training"
        self._asked = dict(asked)

    def open(self, on_leftovers: str | None) -> Path:
        """`on_leftovers` is "resume", "restart" or None: then InvalidRequest where there are any."""
        if self.folder.exists():
            self._meet_leftovers(on_leftovers)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RUN_FILE).write_text(json.dumps(self._asked, indent=1, sort_keys=True) + "\n")
        return self.folder

    def _meet_leftovers(self, wish: str | None) -> None:
        if wish == "restart":
            shutil.rmtree(self.folder)
            return
        if wish is None:
            raise InvalidRequest(
                f"{self.folder} is left from a run that was not finished: --resume goes on with it, --restart begins "
                "anew and removes it"
            )
        try:
            before = json.loads((self.folder / RUN_FILE).read_text())
        except (OSError, ValueError):
            return  # stopped before it had begun: nothing to differ from
        changed = sorted(
            name for name in before.keys() | self._asked.keys() if before.get(name) != self._asked.get(name)
        )
        if changed:
            raise InvalidRequest(
                f"{self.folder} was begun with other settings: {', '.join(changed)} differ; repeat them to resume, or "
                "begin anew with --restart"
            )

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def fingerprint_of(source: str) -> str:
    """sha256 of a file; of a hub id or a folder its name."""
    path = Path(source)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source
