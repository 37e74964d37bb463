"""What a run writes to its output, and whether any of it is there before it begins. Knows names of files; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from prefixrack_adapters.bundle import BUNDLE_FILES
from prefixrack_adapters.earlier_files import refuse_to_replace
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import workspace_of

METRICS_FILE = "metrics.json"
CURVES_FILE = "curves.svg"
CONFUSION_FILE = "confusion.svg"
PICTURES = (CURVES_FILE, CONFUSION_FILE)
STUDY_FILE = "study.json"
STUDY_PICTURE = "study.svg"

OF_A_RUN = (*BUNDLE_FILES, METRICS_FILE, *PICTURES)
OF_A_STUDY = (STUDY_FILE, STUDY_PICTURE)


def output_of(settings: Sequence[TrainSettings]) -> Path:
    """Of several data sets the folder that holds theirs."""
    return settings[0].output if len(settings) == 1 else settings[0].output.parent


def check_outputs(settings: Sequence[TrainSettings], on_leftovers: str | None) -> None:
    """Raises InvalidRequest, naming what is there, where these runs would replace what others have written.

    Not of a run that was broken off and goes on: whether it may replace anything was asked when it began.
    """
    if on_leftovers != "restart" and workspace_of(output_of(settings)).exists():
        return
    nothing_to_resume = "; there is no unfinished run to resume" if on_leftovers == "resume" else ""
    for folder, names in _written(settings):
        refuse_to_replace(folder, names, "--output", nothing_to_resume)


def _written(settings: Sequence[TrainSettings]) -> Iterator[tuple[Path, Sequence[str]]]:
    """The folders that are written to, with the files of each. A study's lie beside the run's, or above several."""
    for one in settings:
        yield one.output, OF_A_RUN
    yield output_of(settings), OF_A_STUDY
