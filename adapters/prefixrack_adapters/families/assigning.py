"""Giving a model the tensors of its files, mapped. Knows names and shapes; no families, no transformers.

torch would draw random weights for linear layers and embeddings first. On the meta device that computes nothing, but
imports torch's compiler, which takes longer than all the rest of loading.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.architectures import Architecture
from prefixrack_adapters.weights import SAFETENSORS, torch_state, weight_files


class Linear(nn.Linear):
    """Has no values before they are assigned."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """Has no values before they are assigned."""

    def reset_parameters(self) -> None:
        pass


def assign_weights(model: nn.Module, folder: Path, architecture: Architecture, advice: str) -> None:
    """Give a model that was made on the meta device the files' own mapped tensors, file by file: nothing is copied.

    What the files have beside them (poolers, heads, mixins of task checkpoints) is left out. `advice` is what to do
    about a tensor of another shape. Raises UnsupportedBackbone for one, and where a tensor is missing.
    """
    wanted = dict(model.state_dict())
    for path in weight_files(folder):
        found = {architecture.base_name(name): tensor for name, tensor in _tensors(path).items()}
        own = {name: tensor for name, tensor in found.items() if name in wanted}
        for name, tensor in own.items():
            if tensor.shape != wanted[name].shape:
                raise UnsupportedBackbone(
                    f"{path} has {name!r} in shape {list(tensor.shape)}, config.json asks for "
                    f"{list(wanted[name].shape)}: {advice}"
                )
        model.load_state_dict(own, strict=False, assign=True)
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise UnsupportedBackbone(
            f"{folder} lacks {len(missing)} of the model's tensors, the first {missing[0]!r}: copy all of its files"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.suffix == SAFETENSORS else torch_state(path)
