"""PEFT: prefix tuning adapters on one model, the active one switched from batch to batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification

from protocol import AdapterTensors, Outputs, Row, Work, by_adapter, padded, serve


class Switching:
    """The pooler is the backbone's and shared; each adapter has its own prefix and classifier.

    The variant is the dtype, of the model and of what is added to it.
    """

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        model = AutoModelForSequenceClassification.from_pretrained(work.model).eval()
        config = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=work.prefix_len, inference_mode=True)
        self._num_labels = len(work.labels)
        self._model = get_peft_model(model, config, adapter_name=work.names[0]).eval()
        for name in work.names:
            if name != work.names[0]:
                self._model.add_adapter(name, config)
            _fill(self._model, name, work.tensors(name))
        self._model.to(work.device, getattr(torch, work.variant))
        self._device = work.device

    @torch.inference_mode()
    def outputs(self, rows: Sequence[Row]) -> Outputs:
        logits = np.empty((len(rows), self._num_labels), np.float32)
        for name, members in by_adapter(rows):
            self._model.set_adapter(name)
            parts = padded([rows[member] for member in members])
            ids, mask = (torch.from_numpy(part).to(self._device) for part in parts)
            logits[members] = self._model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()
        return logits


@torch.no_grad()
def _fill(model: Any, name: str, tensors: AdapterTensors) -> None:
    model.prompt_encoder[name].embedding.weight.copy_(torch.from_numpy(tensors.by_vector))
    classifier = model.base_model.classifier.modules_to_save[name]
    classifier.weight.copy_(torch.from_numpy(tensors.weight))
    classifier.bias.copy_(torch.from_numpy(tensors.bias))


if __name__ == "__main__":
    serve(Switching, "torch", "transformers", "peft")
