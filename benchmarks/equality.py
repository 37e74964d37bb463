"""Outputs are compared before anything is timed: what computes something else has no speed to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from workload import Request

# Largest allowed difference between two ways to compute a row, relative to the largest output. Weights in int8 are
# other numbers than those of the stock model: `precision.py` measures what that does.
TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2, "int8": 0.3}
# For each number of tokens cuBLAS chooses a kernel, with an order of summation of its own.
FLOAT32_ON_GPU = 1e-4


def difference(seen: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest, relative to the largest expected value."""
    return float(np.abs(seen - expected).max() / np.abs(expected).max())


def check_equal(what: str, seen: NDArray[Any], expected: NDArray[Any], dtype: str, device: str) -> None:
    allowed = FLOAT32_ON_GPU if dtype == "float32" and device != "cpu" else TOLERANCES[dtype]
    found = difference(seen, expected)
    if not found <= allowed:
        raise SystemExit(f"{what} differ by {found:.1e}, allowed is {allowed:.0e} in {dtype} on {device}")


def check_answers(backbone: Backbone, requests: Sequence[Request], answers: NDArray[Any]) -> None:
    """Each row's logits [num_rows, num_labels] against the row alone in a pass of its own."""
    device, dtype = backbone.device, backbone.dtype
    adapters = {request.adapter.name: request.adapter for request in requests}
    loaded = {name: Adapter.load(adapter.folder, device=device, dtype=dtype) for name, adapter in adapters.items()}
    alone = [backbone.compute([PackRow(request.row, loaded[request.adapter.name])])[0] for request in requests]
    check_equal("answers and rows alone", answers, np.stack(alone), str(dtype).removeprefix("torch."), device)
