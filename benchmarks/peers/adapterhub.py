"""AdapterHub's `adapters`: prefix tuning in one padded batch, which `BatchSplit` cuts by adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from adapters.composition import BatchSplit

from adapters import (  # type: ignore[attr-defined]  # mypy takes it for this repository's folder of that name
    AutoAdapterModel,
    PrefixTuningConfig,
)
from protocol import AdapterTensors, Outputs, Row, Work, by_adapter, padded, serve


class Split:
    """The variant is the dtype, of the model and of what is added to it."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        self._num_labels = len(work.labels)
        self._model = AutoAdapterModel.from_pretrained(work.model)
        config = PrefixTuningConfig(flat=True, prefix_length=work.prefix_len)
        for name in work.names:
            self._model.add_adapter(name, config=config)
            self._model.add_classification_head(name, num_labels=self._num_labels, layers=2)
            _fill(self._model, name, work.tensors(name))
        self._model.eval().to(work.device, getattr(torch, work.variant))
        self._device = work.device

    @torch.inference_mode()
    def outputs(self, rows: Sequence[Row]) -> Outputs:
        groups = by_adapter(rows)
        split = BatchSplit(*(name for name, _ in groups), batch_sizes=[len(members) for _, members in groups])
        self._model.set_active_adapters(split)
        order = [member for _, members in groups for member in members]
        ids, mask = (torch.from_numpy(part).to(self._device) for part in padded([rows[member] for member in order]))
        parts = self._model(input_ids=ids, attention_mask=mask)
        logits = np.empty((len(rows), self._num_labels), np.float32)
        logits[order] = torch.cat([part.logits for part in parts]).float().cpu().numpy()
        return logits


@torch.no_grad()
def _fill(model: Any, name: str, tensors: AdapterTensors) -> None:
    pool = model.base_model.prefix_tuning.prefix_tunings[name]
    (prefix,) = pool.values()
    prefix.control_trans.copy_(torch.from_numpy(tensors.by_vector.reshape(-1)))
    pooler, classifier = (layer for layer in model.heads[name] if isinstance(layer, torch.nn.Linear))
    pooler.weight.copy_(torch.from_numpy(tensors.pooler_weight))
    pooler.bias.copy_(torch.from_numpy(tensors.pooler_bias))
    classifier.weight.copy_(torch.from_numpy(tensors.weight))
    classifier.bias.copy_(torch.from_numpy(tensors.bias))


if __name__ == "__main__":
    serve(Split, "torch", "transformers", "adapters")
