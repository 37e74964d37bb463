"""Infinity: its torch engine, classification by one fine-tuned model. It takes texts, and tokenises them itself."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ |= {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
from infinity_emb import EngineArgs, SyncEngineArray

from protocol import Outputs, Row, Work, serve


class Classify:
    """Outputs are probabilities: that is what it answers, whatever `raw_scores` says."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        self._labels = work.labels
        self._model = str(work.model)
        args = EngineArgs(
            model_name_or_path=self._model,
            served_model_name=self._model,
            engine="torch",
            device="cpu",
            dtype="float32",
            trust_remote_code=False,
            bettertransformer=False,
            batch_size=32,
            model_warmup=False,
        )
        self._engines = SyncEngineArray.from_args([args])

    def outputs(self, rows: Sequence[Row]) -> Outputs:
        future = self._engines.classify(model=self._model, sentences=[row.text for row in rows])
        answers, _ = future.result()
        by_label = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        return np.array([[scores[label] for label in self._labels] for scores in by_label], np.float32)


if __name__ == "__main__":
    serve(Classify, "infinity-emb", "torch", "transformers")
