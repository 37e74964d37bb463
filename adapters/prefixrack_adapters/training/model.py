"""The trained module: prefix and heads around a frozen backbone, through the packed forward pass that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.dense import Dense
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.packing import Prompt, row_spans
from prefixrack_adapters.training.objectives import Item, Objective, Spans
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder, PromptEncoder
from prefixrack_adapters.weights import weight_tensors

Encoder = PrefixEncoder | PromptEncoder
Arrays = Mapping[str, NDArray[Any]]
BeforeRow = tuple[Prefix | None, Prompt | None]  # a row has one of the two, or none


@dataclass(frozen=True, slots=True)
class Part:
    """One data set's share of a run: what its adapter will be, and what it learns from."""

    manifest: Manifest
    objective: Objective


class PromptModel(nn.Module):
    """What `Trainer` trains: one prefix, and a head for each part. Its state dict holds the trained tensors only.

    The frozen backbone is kept out of the module tree on purpose: checkpoints then hold 0.1–3 % of the model. With
    `train_backbone` (the fine-tuning baseline) it is part of the tree.
    """

    def __init__(
        self,
        backbone: Backbone,
        parts: Sequence[Part],
        encoder: Encoder | None,
        train_backbone: bool = False,
        backbone_dropout: bool = True,
    ) -> None:
        super().__init__()
        self._has_dropout = backbone_dropout
        self._outside = (backbone, tuple(parts))
        self.encoder = encoder
        self.heads = nn.ModuleList(_head_modules(backbone, part.manifest) for part in parts)
        self.backbone_model = backbone.model if train_backbone else None
        backbone.model.requires_grad_(train_backbone)

    @property
    def backbone(self) -> Backbone:
        return self._outside[0]

    @property
    def parts(self) -> Sequence[Part]:
        return self._outside[1]

    @property
    def is_divisible(self) -> bool:
        """Whether a batch may be computed in several packs without a change of the loss."""
        return all(part.objective.is_divisible for part in self.parts)

    def train(self, mode: bool = True) -> PromptModel:
        """The backbone's own dropout is on in training, whether the backbone is trained or frozen."""
        super().train(mode)
        self.backbone.model.train(mode and self._has_dropout)
        return self

    def forward(self, items: Sequence[Item], batch: Sequence[Item] | None = None) -> dict[str, Tensor]:
        """The items' share in the loss of their batch (None: they are all of it).

        The losses of parts count by their numbers of items, so a batch of several data sets is like one of a large one.
        """
        batch = items if batch is None else batch
        made = None if self.encoder is None else self.encoder()
        hidden, spans = hidden_states(self.backbone, items, self.before_rows(made, items, batch))
        return {"loss": self.loss(hidden, spans, items, batch)}

    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], batch: Sequence[Item]) -> Tensor:
        """The items' share in the loss of their batch, from the pack's hidden states."""
        losses = []
        for index, part in enumerate(self.parts):
            members = [member for member, item in enumerate(items) if item.part == index]
            if not members:
                continue
            own = [items[member] for member in members]
            loss = part.objective.loss(hidden, [spans[member] for member in members], own, self._head(index))
            losses.append(loss * _share(part.objective, own, index, batch))
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def before_rows(self, made: Tensor | None, items: Sequence[Item], batch: Sequence[Item]) -> list[BeforeRow]:
        """What stands before each row of some items of a batch. `made` is what the encoder gave; None without one."""
        places, num_rows = _row_places(items, batch)
        if made is None:
            return [(None, None)] * len(places)
        if isinstance(self.encoder, PrefixEncoder):
            return [(prefix, None) for prefix in self.encoder.for_rows(made, places, num_rows)]
        return [(None, Prompt(made.to(self.backbone.dtype), "once"))] * len(places)

    def _head(self, part: int) -> Any:
        def apply(states: Tensor) -> Tensor:
            for layer in _layers(self.heads[part], self.parts[part].manifest):
                states = layer(states)
            return states

        return apply

    def arrays(self, part: int = 0) -> dict[str, NDArray[np.float32]]:
        """The tensors of a part's bundle, float32, with the reparameterization already folded."""
        name = "prompt" if isinstance(self.encoder, PromptEncoder) else "prefix"
        arrays = {} if self.encoder is None else {name: _array(self.encoder.folded())}
        for index, layer in enumerate(_layers(self.heads[part], self.parts[part].manifest)):
            arrays[f"head.{index}.weight"] = _array(layer.weight)
            if layer.bias is not None:
                arrays[f"head.{index}.bias"] = _array(layer.bias)
        return arrays

    def adapter(self, part: int = 0) -> Adapter:
        """A part's adapter as it would serve now."""
        backbone = self.backbone
        manifest = self.parts[part].manifest
        return Adapter.from_arrays(manifest, self.arrays(part), device=backbone.device, dtype=backbone.dtype)

    @torch.no_grad()
    def start_from(self, arrays: Arrays) -> None:
        """Take over the prefix of a bundle's tensors, and its head where all its shapes are ours."""
        if isinstance(self.encoder, PrefixEncoder):
            self.encoder.start_from(_tensor(arrays["prefix"], self.backbone.device))
        own = {f"head.{name}": values for name, values in self.heads[0].named_parameters()}
        if all(name in arrays and arrays[name].shape == values.shape for name, values in own.items()):
            for name, values in own.items():
                values.copy_(_tensor(arrays[name], self.backbone.device))


def hidden_states(backbone: Backbone, items: Sequence[Item], before: Sequence[BeforeRow]) -> tuple[Tensor, Spans]:
    """[T, hidden_size] in float32 and where each item's rows lie; `before` is what stands before each of the rows.

    Rows of equal length are neighbours: they share calls.
    """
    rows = [row for item in items for row in item.rows]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    ordered = [rows[index] for index in order]
    prefixes, prompts = zip(*(before[index] for index in order), strict=True)
    hidden = backbone.hidden_states(ordered, prefixes, prompts)
    found = dict(zip(order, row_spans(ordered, prompts), strict=True))
    indices = iter(range(len(rows)))
    return hidden.float(), [[found[next(indices)] for _ in item.rows] for item in items]


def _row_places(items: Sequence[Item], batch: Sequence[Item]) -> tuple[list[int], int]:
    """Which rows of their batch the rows of some of its items are, and how many rows it has."""
    first: dict[int, int] = {}
    num_rows = 0
    for item in batch:
        first[id(item)] = num_rows
        num_rows += len(item.rows)
    return [first[id(item)] + index for item in items for index in range(len(item.rows))], num_rows


def _share(objective: Objective, own: Sequence[Item], part: int, batch: Sequence[Item]) -> float:
    whole = [item for item in batch if item.part == part]
    return objective.weight(own) / objective.weight(whole) * len(whole) / len(batch)


def _layers(modules: nn.Module, manifest: Manifest) -> list[Dense]:
    specs = manifest.head.layers
    linears = [module for module in modules.children() if isinstance(module, nn.Linear)]
    return [Dense(module.weight, module.bias, spec.activation) for module, spec in zip(linears, specs, strict=True)]


def _tensor(values: NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy().copy()


def _head_modules(backbone: Backbone, manifest: Manifest) -> nn.ModuleList:
    """Fresh linear layers, as the original code starts them."""
    modules, width = [], backbone.spec.hidden_size
    for spec in manifest.head.layers:
        modules.append(nn.Linear(width, spec.num_outputs, bias=spec.bias, device=backbone.device))
        width = spec.num_outputs
    for module in modules:
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    return nn.ModuleList(modules)


def load_pooler(head: nn.Module, folder: Path) -> bool:
    """Copy the backbone's pretrained pooler into a two-layer head and freeze it; False where the file has none.

    Then the head's first layer is trained from its random start instead, and travels in the bundle either way.
    """
    found = {}
    for tensor in weight_tensors(folder):
        _, mark, part = tensor.name.rpartition("pooler.dense.")
        if mark:
            found[part] = tensor
    pooler = next(iter(head.children()))
    assert isinstance(pooler, nn.Linear)
    if set(found) != {"weight", "bias"}:
        return False
    with torch.no_grad():
        pooler.weight.copy_(torch.from_numpy(found["weight"].read()))
        pooler.bias.copy_(torch.from_numpy(found["bias"].read()))
    pooler.requires_grad_(False)
    return True
