"""Trackers that follow a run, by transformers' own integrations. Knows their names and where logs lie; no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from prefixrack.errors import InvalidRequest

TENSORBOARD = "tensorboard"
# What to install where the package has another name than the integration.
PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet-ml"}
TRACKERS = tuple(sorted(INTEGRATION_TO_CALLBACK.keys() - {"flyte"}))  # that one works inside a Flyte task only


def check_trackers(trackers: Sequence[str]) -> None:
    """Raises InvalidRequest, before anything is computed, for trackers that are not known, not there or broken."""
    unknown = sorted(set(trackers) - set(TRACKERS))
    if unknown:
        raise InvalidRequest(f"tracker {unknown[0]!r} is not known; {', '.join(TRACKERS)} are")
    missing = sorted(set(trackers) - set(get_available_reporting_integrations()))
    if missing:
        packages = " ".join(PACKAGES.get(name, name) for name in missing)
        raise InvalidRequest(f"tracker {missing[0]!r} is not installed here: pip install {packages}")
    for name in trackers:
        _check_loads(name)


def _check_loads(name: str) -> None:
    """A package may be there and lack one that it needs."""
    try:
        INTEGRATION_TO_CALLBACK[name]()
    except (ImportError, RuntimeError) as error:  # the integrations raise either
        package = PACKAGES.get(name, name)
        raise InvalidRequest(
            f"tracker {name!r} cannot be loaded ({error}): pip install --upgrade --force-reinstall {package}"
        ) from None


def logs_folder(output: Path) -> Path:
    """Where logs of runs lie: beside the output, and not in the workspace, which goes when a run is finished."""
    return output.parent / f"{output.name}.logs"


def own_callbacks(trackers: Sequence[str], logs: Path) -> list[TrainerCallback]:
    """Callbacks of trackers that need to be told where to write; the others are left to the Trainer."""
    if TENSORBOARD not in trackers:
        return []
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoardCallback(SummaryWriter(str(logs)))]


def of_trainer(trackers: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in trackers if name != TENSORBOARD)
