"""ONNX Runtime: one merged model, exported, fused by its own optimiser, batches of rows of like length."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from transformers import AutoModelForSequenceClassification

from protocol import Outputs, Row, Work, padded, serve, timed

BATCH_SIZES = (4, 8, 16, 32, 64)
TRIALS = 5


class Bucketed:
    """Rows sorted by length, in batches of the size of BATCH_SIZES that is fastest. The variant is the precision."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = work.threads
        with tempfile.TemporaryDirectory() as folder:
            path = exported(work, Path(folder))
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._num_labels = len(work.labels)
        self._batch_size = BATCH_SIZES[0]
        self._batch_size = min(BATCH_SIZES, key=lambda size: self._seconds(size, work.sets[0]))

    def outputs(self, rows: Sequence[Row]) -> Outputs:
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].token_ids))
        logits = np.empty((len(rows), self._num_labels), np.float32)
        for start in range(0, len(rows), self._batch_size):
            members = order[start : start + self._batch_size]
            ids, mask = padded([rows[member] for member in members])
            (logits[members],) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        return logits

    def _seconds(self, batch_size: int, rows: Sequence[Row]) -> float:
        self._batch_size = batch_size
        return statistics.median(timed(self, rows) for _ in range(TRIALS))


def exported(work: Work, folder: Path) -> Path:
    """The model as ONNX: attention, GELU and normalisation fused, in int8 with weights quantised by channel."""
    model = AutoModelForSequenceClassification.from_pretrained(work.model, attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {"input_ids": {0: "rows", 1: "tokens"}, "attention_mask": {0: "rows", 1: "tokens"}}
    torch.onnx.export(
        model,
        (ids, torch.ones_like(ids)),
        folder / "model.onnx",
        input_names=list(axes),
        output_names=["logits"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    config = model.config
    fused = optimize_model(
        str(folder / "model.onnx"),
        "bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
    )
    fused.save_model_to_file(str(folder / "fused.onnx"))
    if work.variant != "int8":
        return folder / "fused.onnx"
    quantize_dynamic(
        folder / "fused.onnx",
        folder / "int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # fused nodes have no inferred types
    )
    return folder / "int8.onnx"


if __name__ == "__main__":
    serve(Bucketed, "onnxruntime", "torch", "transformers")
