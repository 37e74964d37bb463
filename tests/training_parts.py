"""Models in training, put together without a Trainer: what a batch's loss and gradients are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.drafts import draft_manifest, read_data
from prefixrack_adapters.training.model import Encoder, Part, PromptModel
from prefixrack_adapters.training.objectives import Item
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder, PromptEncoder
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.trainer import OBJECTIVES, item_packs


def model_of(backbone: Backbone, several: Sequence[TrainSettings]) -> tuple[PromptModel, list[list[Item]]]:
    """A model for data sets together, with prefix and heads far from zero; and the items of each set."""
    torch.manual_seed(1)
    parts, items = [], []
    for index, settings in enumerate(several):
        data = read_data(settings)
        manifest = draft_manifest(settings, backbone.spec, data)
        task = build_task(manifest, backbone.spec, backbone.tokenizer)
        objective = OBJECTIVES[settings.task](manifest, task, index)
        parts.append(Part(manifest, objective))
        items.append(objective.items(data.train))
    model = PromptModel(backbone, parts, _encoder(several[0], backbone, parts[0]))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model, items


def _encoder(settings: TrainSettings, backbone: Backbone, part: Part) -> Encoder | None:
    prefix = part.manifest.prefix
    if prefix.kind == "soft":
        return PromptEncoder(prefix.prefix_len, torch.zeros(5, prefix.width))
    mlp_size = 16 if settings.reparameterization == "mlp" else None
    return PrefixEncoder(prefix, backbone.spec.hidden_size, mlp_size, settings.prefix_dropout)


def loss_and_gradients(model: PromptModel, batch: Sequence[Item], max_tokens: int) -> tuple[float, dict[str, Tensor]]:
    """Of a batch that is computed in packs of at most `max_tokens` tokens."""
    model.zero_grad()
    total = 0.0
    for pack in item_packs(batch, max_tokens):
        loss: Any = model(pack, batch)["loss"]
        loss.backward()
        total += loss.item()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return total, gradients
