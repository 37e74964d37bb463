"""What others have written to a folder before a command writes there. Knows no command and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefixrack.errors import BundleFault, InvalidRequest
from prefixrack_adapters.bundle import MANIFEST_FILE
from prefixrack_adapters.manifest import Manifest, parse_manifest


def refuse_to_replace(folder: Path, names: Sequence[str], option: str, why: str = "") -> None:
    """Raises InvalidRequest, naming what is there, where one of these files is. `why` ends the message."""
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise InvalidRequest(
            f"{folder} already holds {_described(folder, there)}: give another folder as {option}, or --overwrite "
            f"to replace it{why}"
        )


def _described(folder: Path, names: Sequence[str]) -> str:
    files = ", ".join(names)
    if MANIFEST_FILE not in names:
        return files
    try:
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    except (BundleFault, OSError):
        return files
    return f"the adapter {manifest.name!r} ({_facts(manifest)})"


def _facts(manifest: Manifest) -> str:
    if not manifest.metrics:
        return manifest.task
    first = manifest.metrics[0]
    return f"{manifest.task}, {first.name} {first.value} on {first.split} of {first.dataset}"
