"""Thresholds that a run chooses after training, and the cast to what is stored. Knows adapters; no files."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.training.drafts import TrainingData
from prefixrack_adapters.training.memory import evaluate
from prefixrack_adapters.training.model import Arrays

THRESHOLDS = [round(0.05 * step, 2) for step in range(2, 17)]
MAX_TUNING_EXAMPLES = 2000


def adapter_of(manifest: Manifest, arrays: Arrays, backbone: Backbone) -> Adapter:
    return Adapter.from_arrays(manifest, arrays, device=backbone.device, dtype=backbone.dtype)


def tuned_decoding(manifest: Manifest, arrays: Arrays, backbone: Backbone, data: TrainingData) -> Manifest:
    """The manifest with the thresholds that score best.

    Several labels: the best micro F1 on a sample of the training data. No-answer questions: the best F1 on dev, as
    SQuAD 2.0's official script chooses it (the share of unanswerable questions decides it, and that is dev's).
    """
    if manifest.decoding.no_answer:
        scores = evaluate(backbone, adapter_of(manifest, arrays, backbone), data.dev).scores
        return _with_decoding(manifest, null_threshold=scores["best_f1_threshold"])
    if manifest.decoding.problem != "multi_label":
        return manifest
    step = max(1, len(data.train) // MAX_TUNING_EXAMPLES)
    sample = data.train[::step]
    tried = {}
    for threshold in THRESHOLDS:
        candidate = _with_decoding(manifest, threshold=threshold)
        tried[threshold] = evaluate(backbone, adapter_of(candidate, arrays, backbone), sample).value
    return _with_decoding(manifest, threshold=max(tried, key=lambda threshold: tried[threshold]))


def _with_decoding(manifest: Manifest, **update: float) -> Manifest:
    return manifest.model_copy(update={"decoding": manifest.decoding.model_copy(update=update)})


def cast(manifest: Manifest, arrays: Arrays, dtype: str) -> tuple[Manifest, Arrays]:
    """Manifest and tensors in the dtype that is stored: the score that counts is measured on these.

    Raises InvalidRequest for values that are no numbers, or too large for the dtype: nobody could serve them.
    """
    with np.errstate(over="ignore"):
        stored: dict[str, Any] = {name: values.astype(np.dtype(dtype)) for name, values in arrays.items()}
    for name, values in stored.items():
        if not np.isfinite(values).all():
            raise InvalidRequest(
                f"tensor {name!r} of {manifest.name} holds values that are not finite in {dtype}: the training "
                "diverged, so lower --learning-rate; values beyond 65,504 also need --prefix-dtype float32"
            )
    prefix = manifest.prefix.model_copy(update={"dtype": dtype})
    head = manifest.head.model_copy(update={"dtype": dtype})
    return manifest.model_copy(update={"prefix": prefix, "head": head}), stored
