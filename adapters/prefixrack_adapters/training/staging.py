"""Where a run keeps what is not finished: files appear in their folder whole or not at all. Knows no training."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefixrack.errors import DiskFull, InvalidRequest
from prefixrack_adapters.bundle import file_sha256

RUN_FILE = "run.json"
CHECKPOINTS = "checkpoint-*"
LAST_FILE = "trainer_state.json"  # what transformers' Trainer writes last into a checkpoint
# In the text of errors that carry no number: safetensors' and, on any failed write, that of torch's file writer.
FULL_DISK_WORDS = ("No space left on device", "iostream error")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write in. Left without an error, its files replace those of `output` one by one.

    Raises DiskFull; whatever goes wrong, `output` is as it was.
    """
    folder = output.parent / f".{output.name}.unfinished"
    with told_if_full(output):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed while it wrote
        make_folder(folder)
        try:
            yield folder
            make_folder(output)
            for path in sorted(folder.iterdir()):
                path.replace(output / path.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Raises InvalidRequest where there is a file in its way or no right to make it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InvalidRequest(f"{folder} cannot be made ({error.strerror}): give another folder as --output") from None


@contextmanager
def told_if_full(place: Path) -> Iterator[None]:
    """Any library's complaint of a full disk as the one error that names the place and the way on."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"the disk is full: {place} could not be written and is as it was; make room and run the same command "
            "with --resume"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Libraries in other languages wrap the number into their own exceptions, at best with the system's words."""
    chain: BaseException | None = error
    while chain is not None:
        text = str(chain)
        if getattr(chain, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(one in text for one in FULL_DISK_WORDS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def workspace_of(output: Path) -> Path:
    """Where a run that writes to this folder keeps what is not finished; it may not be there."""
    return output.absolute().parent / f"{output.name}.training"


class Workspace:
    """The folder beside the output where checkpoints lie until the run is finished.

    `asked` is all that shapes the result. A folder that an earlier run left is gone on with only where the same is
    asked for again, and only if the caller says so.
    """

    def __init__(self, output: Path, asked: Mapping[str, Any]) -> None:
        self.folder = workspace_of(output)
        self._output = output
        self._asked = dict(asked)

    @contextmanager
    def opened(self, on_leftovers: str | None) -> Iterator[Path]:
        """The folder, for as long as the run takes. A run that fails before its first checkpoint leaves nothing.

        `on_leftovers` is "resume", "restart" or None: then InvalidRequest where there are any. Raises DiskFull.
        """
        with told_if_full(self._output):
            if self._output.exists() and not self._output.is_dir():
                raise InvalidRequest(f"{self._output} is a file: give a folder as --output")
            if self.folder.exists():
                self._meet_leftovers(on_leftovers)
            try:
                self._begin()
                yield self.folder
            except BaseException:  # also a user who interrupts: what is worth going on with is decided alike
                if not self.is_worth_keeping():
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_worth_keeping(self) -> bool:
        """Whether there is anything in it to go on with."""
        return bool(whole_checkpoints(self.folder))

    def _begin(self) -> None:
        """Write down what is asked for, in one move: a file that a kill cut off would match any settings."""
        make_folder(self.folder)
        path = self.folder / RUN_FILE
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self._asked, indent=1, sort_keys=True) + "\n")
            unfinished.replace(path)

    def _meet_leftovers(self, wish: str | None) -> None:
        if wish == "restart":
            shutil.rmtree(self.folder)
            return
        if wish is None:
            raise InvalidRequest(
                f"{self.folder} is left from a run that was not finished: --resume goes on with it, --restart begins "
                "anew and removes it"
            )
        path = self.folder / RUN_FILE
        if not path.exists():
            return  # stopped before it had begun: nothing to differ from
        before = json.loads(path.read_text())
        changed = sorted(
            name for name in before.keys() | self._asked.keys() if before.get(name) != self._asked.get(name)
        )
        if changed:
            raise InvalidRequest(
                f"{self.folder} was begun with other settings: {', '.join(changed)} differ; repeat them to resume, or "
                "begin anew with --restart"
            )


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints at any depth below `folder` that were written to their end, those of more steps last."""
    found = [path for path in folder.rglob(CHECKPOINTS) if path.is_dir() and _is_whole(path)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def last_checkpoint(folder: Path) -> Path | None:
    """The one to go on from. Removes those that a kill cut off while they were written or removed."""
    whole = whole_checkpoints(folder)
    for path in folder.glob(CHECKPOINTS):
        if path not in whole:
            shutil.rmtree(path)
    return whole[-1] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / LAST_FILE).read_text())
    except (OSError, ValueError):
        return False
    return True


def fingerprint_of(source: str) -> str:
    """sha256 of a file, or of a folder's files with their names; of a hub id its name."""
    path = Path(source)
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        return source
    files = sorted(one for one in path.rglob("*") if one.is_file())
    lines = [f"{one.relative_to(path)} {file_sha256(one)}\n" for one in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
