"""A backbone from the model hub, or from what an earlier fetch left in its cache. Knows no weights; no torch.

The config comes first: of a backbone that is not supported, nothing else is fetched.
"""

from __future__ import annotations

from pathlib import Path

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.spec import read_config
from prefixrack_adapters.tokenizer import SPECIAL_TOKEN_FILES, TOKENIZER_FILE, VOCABULARY_FILES
from prefixrack_adapters.weights import INDEX_FILE, SINGLE_FILE, TORCH_FILE, TORCH_INDEX_FILE, WEIGHT_FILES

CONFIG_FILE = "config.json"
# Exact names: repositories hold the same weights for other tools, and in other precisions, besides.
SAFE_WEIGHTS = (SINGLE_FILE, INDEX_FILE, "model-*-of-*.safetensors")
TORCH_WEIGHTS = (TORCH_FILE, TORCH_INDEX_FILE, "pytorch_model-*-of-*.bin")


def fetch_backbone(hub_id: str) -> Path:
    """The folder of a backbone on the hub, config, tokenizer and weights. HF_HUB_OFFLINE=1 allows the cache alone.

    Pickled weights are fetched only where there are no others. Raises UnsupportedBackbone, saying what to do: the
    backbone is of a family that is not supported, is not there, may not be read, or cannot be reached.
    """
    folder = _snapshot(hub_id, (CONFIG_FILE,))
    read_config(folder)
    _snapshot(hub_id, (CONFIG_FILE, TOKENIZER_FILE, *VOCABULARY_FILES, *SPECIAL_TOKEN_FILES, *SAFE_WEIGHTS))
    if not _has_weights(folder):
        _snapshot(hub_id, (CONFIG_FILE, *TORCH_WEIGHTS))
    if not _has_weights(folder):
        raise UnsupportedBackbone(
            f"backbone {hub_id!r} comes without weights: one of {', '.join(WEIGHT_FILES)} is needed{_where_to_look()}"
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def _where_to_look() -> str:
    return " in the cache, and HF_HUB_OFFLINE is set: unset it and start again" if _is_offline() else " on the hub"


def _snapshot(hub_id: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download  # takes a moment, and most backbones are folders

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:  # the client lets through what its HTTP library raises, another one by version
        raise UnsupportedBackbone(
            f"backbone {hub_id!r} {_reason(error, hub_id)}; or give a backbone's folder"
        ) from error


def _reason(error: Exception, hub_id: str) -> str:
    """What went wrong and what to do. A cause that the hub's client wraps counts."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    seen = (error, error.__cause__)
    if isinstance(error, HFValidationError):
        return "is no hub id: one reads owner/name"
    if any(isinstance(one, GatedRepoError) for one in seen):
        return "is gated: accept its terms on its page, log in with `hf auth login` or set HF_TOKEN"
    if any(isinstance(one, RepositoryNotFoundError) for one in seen):
        return (
            "is not on the hub, or is private: check the name, and for a private one log in with `hf auth login` or "
            "set HF_TOKEN"
        )
    if _is_offline():
        return (
            "is not (or not wholly) in the hub's cache on this machine, and HF_HUB_OFFLINE is set: unset it, or fetch "
            f"it where there is a network with `hf download {hub_id}` and bring the cache along (HF_HOME)"
        )
    return (
        f"cannot be fetched from the hub ({type(error.__cause__ or error).__name__}): check the network and HF_ENDPOINT"
    )


def _is_offline() -> bool:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)
