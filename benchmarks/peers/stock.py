"""Stock transformers: one model fine-tuned for one task, one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification

from protocol import Outputs, Row, Work, padded, serve


class Stock:
    """The variant is the dtype."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        dtype = getattr(torch, work.variant)
        model = AutoModelForSequenceClassification.from_pretrained(work.model, dtype=dtype)
        self._model, self._device = model.eval().to(work.device), work.device

    @torch.inference_mode()
    def outputs(self, rows: Sequence[Row]) -> Outputs:
        ids, mask = (torch.from_numpy(part).to(self._device) for part in padded(rows))
        logits: Outputs = self._model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()
        return logits


if __name__ == "__main__":
    serve(Stock, "torch", "transformers")
