"""The trained module: prefix and head around a frozen backbone, through the packed forward pass that serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.heads import Dense
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.training.objectives import Item, Objective
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder
from prefixrack_adapters.weights import weight_tensors


class PromptModel(nn.Module):
    """What `Trainer` trains. Its state dict holds the trained tensors only.

    The frozen backbone is kept out of the module tree on purpose: checkpoints then hold 0.1–3 % of the model. With
    `train_backbone` (the fine-tuning baseline) it is part of the tree.
    """

    def __init__(
        self,
        backbone: Backbone,
        manifest: Manifest,
        objective: Objective,
        encoder: PrefixEncoder | None,
        train_backbone: bool,
    ) -> None:
        super().__init__()
        self._outside = (backbone, objective, manifest)
        self.encoder = encoder
        self.head = _head_modules(backbone, manifest)
        self.backbone_model = backbone.model if train_backbone else None
        backbone.model.requires_grad_(train_backbone)

    @property
    def backbone(self) -> Backbone:
        return self._outside[0]

    def train(self, mode: bool = True) -> PromptModel:
        """Dropout inside the backbone only where it is trained: frozen, it only costs time on a CPU."""
        super().train(mode)
        self.backbone.model.train(mode and self.backbone_model is not None)
        return self

    def forward(self, items: Sequence[Item], **_: Any) -> dict[str, Tensor]:
        rows = [row for item in items for row in item.rows]
        prefix = self.encoder().unbind(0) if self.encoder is not None else None
        hidden = self.backbone.hidden_states(rows, [prefix] * len(rows))
        return {"loss": self._outside[1].loss(hidden.float(), items, self._apply_head)}

    def _apply_head(self, states: Tensor) -> Tensor:
        specs = self._outside[2].head.layers
        for module, spec in zip(self.head, specs, strict=True):
            assert isinstance(module, nn.Linear)
            states = Dense(module.weight, module.bias, spec.activation)(states)
        return states

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The tensors of a bundle, float32, with the reparameterization already folded."""
        arrays = {} if self.encoder is None else {"prefix": _array(self.encoder.folded())}
        for index, module in enumerate(self.head):
            assert isinstance(module, nn.Linear)
            arrays[f"head.{index}.weight"] = _array(module.weight)
            if module.bias is not None:
                arrays[f"head.{index}.bias"] = _array(module.bias)
        return arrays

    def adapter(self) -> Adapter:
        """The adapter as it would serve now."""
        backbone = self.backbone
        return Adapter.from_arrays(self._outside[2], self.arrays(), device=backbone.device, dtype=backbone.dtype)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy().copy()


def _head_modules(backbone: Backbone, manifest: Manifest) -> nn.ModuleList:
    """Fresh linear layers; a pooler in front is the backbone's own where its file has one, and frozen, as trained."""
    modules, width = [], backbone.spec.hidden_size
    for spec in manifest.head.layers:
        modules.append(nn.Linear(width, spec.num_outputs, bias=spec.bias, device=backbone.device))
        width = spec.num_outputs
    for module in modules:
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    return nn.ModuleList(modules)


def load_pooler(model: PromptModel, folder: Any) -> bool:
    """Copy the backbone's pretrained pooler into a two-layer head and freeze it; False where the file has none.

    Then the head's first layer is trained from its random start instead, and travels in the bundle either way.
    """
    found = {}
    for tensor in weight_tensors(folder):
        _, mark, part = tensor.name.rpartition("pooler.dense.")
        if mark:
            found[part] = tensor
    pooler = model.head[0]
    assert isinstance(pooler, nn.Linear)
    if set(found) != {"weight", "bias"}:
        return False
    with torch.no_grad():
        pooler.weight.copy_(torch.from_numpy(found["weight"].read()))
        pooler.bias.copy_(torch.from_numpy(found["bias"].read()))
    pooler.requires_grad_(False)
    return True
