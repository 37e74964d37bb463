"""The obvious design: one batch per adapter, its prefix as `past_key_values` of stock transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, DynamicCache

from protocol import Outputs, Row, Work, by_adapter, padded, serve


class Adapter(NamedTuple):
    prefix: Tensor  # [num_layers, 2, num_heads, prefix_len, head_dim]
    pooler_weight: Tensor
    pooler_bias: Tensor
    weight: Tensor
    bias: Tensor


class BatchPerAdapter:
    """The variant is the dtype; heads stay in float32, as ours do."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        dtype = getattr(torch, work.variant)
        model = AutoModel.from_pretrained(work.model, add_pooling_layer=False, dtype=dtype)
        self._model, self._device = model.eval().to(work.device), work.device
        self._num_labels = len(work.labels)
        self._adapters = {name: _adapter(work, name) for name in work.names}

    @torch.inference_mode()
    def outputs(self, rows: Sequence[Row]) -> Outputs:
        logits = np.empty((len(rows), self._num_labels), np.float32)
        for name, members in by_adapter(rows):
            logits[members] = self._batch([rows[member] for member in members], self._adapters[name]).cpu().numpy()
        return logits

    def _batch(self, rows: Sequence[Row], adapter: Adapter) -> Tensor:
        ids, mask = (torch.from_numpy(part).to(self._device) for part in padded(rows))
        prefix_len = adapter.prefix.shape[3]
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(adapter.prefix):
            cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), layer)
        hidden = self._model(
            input_ids=ids,
            attention_mask=torch.cat((mask.new_ones(len(rows), prefix_len), mask), dim=1),
            position_ids=(prefix_len + torch.arange(ids.shape[1], device=ids.device)).expand(len(rows), -1),
            past_key_values=cache,
        ).last_hidden_state
        pooled = torch.tanh(F.linear(hidden[:, 0].float(), adapter.pooler_weight, adapter.pooler_bias))
        return F.linear(pooled, adapter.weight, adapter.bias)


def _adapter(work: Work, name: str) -> Adapter:
    stored = work.tensors(name)
    prefix = torch.from_numpy(stored.prefix).transpose(2, 3).contiguous()
    head = (stored.pooler_weight, stored.pooler_bias, stored.weight, stored.bias)
    return Adapter(
        prefix.to(work.device, getattr(torch, work.variant)),
        *(torch.from_numpy(part).to(work.device) for part in head),
    )


if __name__ == "__main__":
    serve(BatchPerAdapter, "torch", "transformers")
