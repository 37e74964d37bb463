"""What others need to know of a backbone without loading it: shapes, limits, fingerprint. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.weights import WeightTensor, weight_tensors

SUPPORTED_FAMILIES = ("bert", "electra", "roberta", "xlm-roberta")
# RoBERTa counts positions from pad_token_id + 1 (fairseq's convention).
OFFSET_FAMILIES = ("roberta", "xlm-roberta")

# Config fields that change outputs, with the value transformers takes where an older config lacks the field.
OUTPUT_FIELDS: Mapping[str, Any] = {
    "model_type": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "vocab_size": None,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "embedding_size": None,
    "pad_token_id": None,
    "position_embedding_type": "absolute",
}
SAMPLES_PER_TENSOR = 64
# What every adapter sees. Poolers, language-model heads and task heads differ between exports of one backbone.
BASE_MODULES = ("embeddings.", "embeddings_project.", "encoder.")


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """Shapes and limits of a backbone. `base_position` is the position id of the first token without a prefix."""

    model_id: str
    architecture: str
    fingerprint: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    num_segments: int
    max_positions: int
    base_position: int

    @classmethod
    def load(cls, folder: Path) -> BackboneSpec:
        """Read config.json and sample the weights. Raises UnsupportedBackbone, listing the families that work."""
        config = read_config(folder)
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return cls(
            model_id=model_id(config, folder),
            architecture=config["model_type"],
            fingerprint=fingerprint(config, folder),
            num_layers=config["num_hidden_layers"],
            num_kv_heads=heads,
            head_dim=hidden // heads,
            hidden_size=hidden,
            vocab_size=config["vocab_size"],
            num_segments=config.get("type_vocab_size", 2),
            max_positions=config["max_position_embeddings"],
            base_position=base_position(config),
        )

    def first_position(self, prefix_len: int, positions: str) -> int:
        """Position id of a row's first token: training tools differ in whether the prefix counts."""
        return self.base_position + (prefix_len if positions == "after_prefix" else 0)

    def max_tokens(self, first_position: int) -> int:
        """The longest row that still has a position id for every token."""
        return self.max_positions - first_position


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UnsupportedBackbone(f"{folder} has no config.json: give the folder that `save_pretrained` wrote")
    config: dict[str, Any] = json.loads(path.read_text())
    family = config.get("model_type")
    if family not in SUPPORTED_FAMILIES:
        raise UnsupportedBackbone(
            f"{folder} is a {family!r} backbone; supported families: {', '.join(SUPPORTED_FAMILIES)}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedBackbone(
            f"{folder} has position_embedding_type {config['position_embedding_type']!r}; only 'absolute' is supported"
        )
    return config


def model_id(config: Mapping[str, Any], folder: Path) -> str:
    return str(config.get("_name_or_path") or folder.name)


def base_position(config: Mapping[str, Any]) -> int:
    return int(config.get("pad_token_id", 1)) + 1 if config["model_type"] in OFFSET_FAMILIES else 0


def fingerprint(config: Mapping[str, Any], folder: Path) -> str:
    """Identity of the frozen weights: equal for .bin and .safetensors, for float32 and bfloat16, with or without heads.

    sha256 over canonical JSON of the output-changing config fields and, per tensor in name order, its base-model
    name, shape and 64 evenly spaced values rounded to bfloat16.
    """
    family = config["model_type"]
    fields = {name: config.get(name, default) for name, default in OUTPUT_FIELDS.items()}
    if family not in OFFSET_FAMILIES:
        fields["pad_token_id"] = None  # only RoBERTa derives positions from it
    if family != "electra":
        fields["embedding_size"] = None
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    described = {_base_name(tensor.name, family): tensor for tensor in weight_tensors(folder)}
    for name in sorted(described):
        if name.startswith(BASE_MODULES) and not name.endswith("position_ids"):
            _add_tensor(digest, name, described[name])
    return digest.hexdigest()


def _base_name(name: str, family: str) -> str:
    """Strip the model prefix that task checkpoints put before base-model names, and old LayerNorm spellings."""
    prefix = "roberta." if family in OFFSET_FAMILIES else f"{family}."
    base = name.removeprefix(prefix)
    return base.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _add_tensor(digest: Any, name: str, tensor: WeightTensor) -> None:
    digest.update(json.dumps([name, list(tensor.shape)]).encode())
    digest.update(_round_to_bfloat16(tensor.sample(SAMPLES_PER_TENSOR)).tobytes())


def _round_to_bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round to nearest even, as torch and the hardware do; returns the 16-bit patterns, little-endian."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")
