"""What others need to know of a backbone without loading it: shapes, limits, fingerprint. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.architectures import ARCHITECTURES, model_type_of
from prefixrack_adapters.weights import WeightTensor, bfloat16_bits, weight_tensors

CONFIG_FILES = ("config.json", "model_config.json")  # the second is SwissArmyTransformer's
SAMPLES_PER_TENSOR = 64


class TakesPositions(Protocol):
    """A manifest's prefix, as far as a row's room goes."""

    @property
    def prefix_len(self) -> int: ...

    @property
    def positions(self) -> Any: ...

    @property
    def num_prompt_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """Shapes and limits of a backbone. `base_position` is the position id of the first token without a prefix.

    `embedding_size` is the width of its word vectors, which is where soft prompts go in.
    """

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
    embedding_size: int = 0

    @classmethod
    def load(cls, folder: Path) -> BackboneSpec:
        """Read config.json and sample the weights. Raises UnsupportedBackbone, listing the families that work."""
        config = read_config(folder)
        architecture = ARCHITECTURES[config["model_type"]]
        hidden_size = architecture.read(config, "hidden_size")
        heads = architecture.read(config, "num_attention_heads")
        num_segments = architecture.num_segments
        usual_segments = architecture.output_fields.get("type_vocab_size", 2)
        return cls(
            model_id=model_id(config, folder),
            architecture=architecture.model_type,
            fingerprint=fingerprint(config, folder),
            num_layers=architecture.read(config, "num_hidden_layers"),
            num_kv_heads=architecture.read(config, "num_key_value_heads", heads),
            head_dim=architecture.read(config, "head_dim", hidden_size // heads),
            hidden_size=hidden_size,
            vocab_size=config["vocab_size"],
            num_segments=config.get("type_vocab_size", usual_segments) if num_segments is None else num_segments,
            max_positions=architecture.read(config, "max_position_embeddings"),
            base_position=architecture.base_position(config),
            embedding_size=architecture.read(config, "embedding_size", hidden_size),
        )

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only those before it, so that a row's last token is the one that has seen all."""
        return ARCHITECTURES[self.architecture].is_causal

    @property
    def uncounted_token(self) -> int | None:
        """A token that takes no position of its row: RoBERTa's padding, where a text has it as a word."""
        return self.base_position - 1 if ARCHITECTURES[self.architecture].counts_from_pad else None

    def first_position(self, prefix_len: int, positions: str) -> int:
        """Position id of a row's first token: training tools differ in whether the prefix counts."""
        return self.base_position + (prefix_len if positions == "after_prefix" else 0)

    def room(self, prefix: TakesPositions) -> int:
        """The longest row that an adapter with this prefix can take."""
        first = self.first_position(prefix.prefix_len, prefix.positions)
        return self.max_tokens(first) - prefix.num_prompt_tokens

    def max_tokens(self, first_position: int) -> int:
        """The longest row that still has a position id for every token."""
        return self.max_positions - first_position


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a backbone, in its family's standard form, `model_type` our name for the family."""
    path = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UnsupportedBackbone(f"{folder} has no {CONFIG_FILES[0]}: give the folder that `save_pretrained` wrote")
    config: dict[str, Any] = json.loads(path.read_text())
    family = config["model_type"] = model_type_of(config)
    architecture = ARCHITECTURES.get(str(family))
    if architecture is None:
        raise UnsupportedBackbone(
            f"{folder} is a {family!r} backbone; supported families: {', '.join(sorted(ARCHITECTURES))}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedBackbone(
            f"{folder} has position_embedding_type {config['position_embedding_type']!r}; only 'absolute' is supported"
        )
    if refusal := architecture.refusal(config):
        raise UnsupportedBackbone(f"{folder} has {refusal}")
    return architecture.standard(config)


def model_id(config: Mapping[str, Any], folder: Path) -> str:
    """The name for people: the config's, else the hub's where the folder lies in its cache, else the folder's."""
    *_, repository, snapshots, _ = ("", "", *folder.absolute().parts)
    is_cached = snapshots == "snapshots" and repository.startswith("models--")
    hub_id = repository.removeprefix("models--").replace("--", "/", 1) if is_cached else None
    return str(config.get("_name_or_path") or hub_id or folder.name)


def fingerprint(config: Mapping[str, Any], folder: Path) -> str:
    """Identity of the frozen weights: equal for .bin and .safetensors, for float32 and bfloat16, with or without heads.

    sha256 over canonical JSON of the output-changing config fields and, per tensor in name order, its base-model
    name, shape and 64 evenly spaced values rounded to bfloat16.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    digest = hashlib.sha256(json.dumps(architecture.fingerprint_fields(config), sort_keys=True).encode())
    described = {architecture.base_name(tensor.name): tensor for tensor in weight_tensors(folder)}
    for name in sorted(described):
        if architecture.is_base_tensor(name, config):
            _add_tensor(digest, name, described[name])
    return digest.hexdigest()


def _add_tensor(digest: Any, name: str, tensor: WeightTensor) -> None:
    digest.update(json.dumps([name, list(tensor.shape)]).encode())
    digest.update(bfloat16_bits(tensor.sample(SAMPLES_PER_TENSOR)).tobytes())
