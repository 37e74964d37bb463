"""What a run may begin with: the prefix of a finished bundle. Knows bundles and shapes; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, check_backbone, check_files, read_tensors
from prefixrack_adapters.manifest import Manifest, parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training.model import Arrays
from prefixrack_adapters.training.settings import TrainSettings


def arrays_to_start_from(settings: TrainSettings, draft: Manifest, spec: BackboneSpec) -> Arrays:
    """The bundle's tensors by name: its prefix, and its head where that means what the run's will mean.

    `draft` is the run's own manifest. Raises InvalidRequest where the bundle's prefix is not of the same kind.
    """
    folder = settings.init_from
    assert folder is not None, "the caller asks only where there is one"
    if not settings.has_deep_prefix or settings.reparameterization != "none":
        raise InvalidRequest(
            "--init-from gives a run the vectors of a deep prefix: method p-tuning-v2 or multitask, without "
            f"reparameterization; seen method {settings.method!r}, reparameterization {settings.reparameterization!r}"
        )
    check_files(folder)
    bundle = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    check_backbone(bundle, spec)
    _check_prefix(folder, bundle, draft)
    tensors = read_tensors(folder / TENSORS_FILE)
    names = [name for name in tensors if name == "prefix" or _is_same_head(bundle, draft)]
    return {name: tensors[name].values for name in names}


def _check_prefix(folder: Path, bundle: Manifest, draft: Manifest) -> None:
    """Equal but for the stored dtype: another shape does not fit, other layers, positions or gates mean another."""
    seen, wanted = (one.prefix.model_dump(mode="json", exclude={"dtype"}) for one in (bundle, draft))
    changed = sorted(name for name in seen.keys() | wanted.keys() if seen.get(name) != wanted.get(name))
    if changed:
        raise InvalidRequest(
            f"the prefix of {folder} has {_shown(seen, changed)}, this run's has {_shown(wanted, changed)}: set "
            "--prefix-len and --prefix-layers to the bundle's, or start from another one"
        )


def _is_same_head(bundle: Manifest, draft: Manifest) -> bool:
    heads = [one.head.model_dump(mode="json", exclude={"dtype"}) for one in (bundle, draft)]
    is_same_task = (bundle.task, bundle.decoding.problem) == (draft.task, draft.decoding.problem)
    return is_same_task and bundle.labels == draft.labels and heads[0] == heads[1]


def _shown(fields: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {fields[name]!r}" for name in names if name in fields)
