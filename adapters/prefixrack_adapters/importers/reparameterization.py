"""P-Tuning v2's reparameterized prefixes, folded into the prefix that they stand for. Knows arrays only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefixrack_adapters.importers.base import Arrays, take


def fold(own: Arrays, module: str = "prefix_encoder.") -> NDArray[np.float32]:
    """The flat prefix [prefix_len, 2·L·H·D]: the embedding itself, or what the reparameterization makes of it.

    That is Linear → tanh → Linear (`model/prefix_encoder.py` of github.com/THUDM/P-tuning-v2), computed once, in
    float64. Raises TensorMismatch where a tensor is missing.
    """
    embedding = take(own, f"{module}embedding.weight")
    if f"{module}trans.0.weight" not in own:
        return embedding
    first, second = (
        (take(own, f"{module}trans.{index}.weight"), take(own, f"{module}trans.{index}.bias")) for index in (0, 2)
    )
    hidden = np.tanh(embedding.astype(np.float64) @ first[0].T + first[1])
    return (hidden @ second[0].T + second[1]).astype(np.float32)
