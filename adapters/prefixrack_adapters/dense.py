"""A dense layer of a head: a product, its activation, a normalisation. Knows tensors alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: Final = (None, "tanh", "gelu", "relu")  # in the order that `gpu/kernels.py` numbers them


@dataclass(frozen=True, slots=True)
class Dense:
    """weight [num_outputs, num_inputs], bias [num_outputs] or None, then the activation, then a normalisation.

    `norm_eps` None: no normalisation. Its scale and shift are part of the layer behind it.
    """

    weight: Tensor
    bias: Tensor | None
    activation: str | None
    norm_eps: float | None = None

    def moved(self, move: Callable[[Tensor], Tensor]) -> Dense:
        bias = None if self.bias is None else move(self.bias)
        return Dense(move(self.weight), bias, self.activation, self.norm_eps)

    def __call__(self, states: Tensor) -> Tensor:
        outputs = self._activated(F.linear(states, self.weight, self.bias))
        return outputs if self.norm_eps is None else F.layer_norm(outputs, outputs.shape[-1:], eps=self.norm_eps)

    def _activated(self, outputs: Tensor) -> Tensor:
        match self.activation:
            case None:
                return outputs
            case "tanh":
                return outputs.tanh()
            case "gelu":
                return F.gelu(outputs)
            case "relu":
                return outputs.relu()
        raise ValueError(f"unknown activation {self.activation!r}: tanh, gelu and relu are known")
