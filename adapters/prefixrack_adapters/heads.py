"""Heads: the small trained layers from hidden states to logits. Knows no tasks and no manifest, only dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Gather = Literal[
    "first_token",
    "last_token",
    "mean_tokens",
    "every_token",
    "first_position",
    "mean_positions",
    "every_position",
]
MEANS = ("mean_tokens", "mean_positions")
POOLED = ("first_token", "last_token", "first_position", *MEANS)


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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Head:
    """Dense layers over the gathered states. Covers linear, pooler + linear, dense + tanh + linear.

    A head is itself and no other: what is known of it can be kept beside it for as long as it lives.
    """

    gather: Gather
    layers: Sequence[Dense]

    def __call__(self, states: Tensor) -> Tensor:
        """[n, hidden_size] → float32 logits [n, num_outputs]. Computed in the layers' own dtype."""
        if not self.layers:
            return states.float()
        states = states.to(self.layers[0].weight.dtype)
        for layer in self.layers:
            states = layer(states)
        return states.float()

    def to(self, device: str) -> Head:
        return self.moved(lambda tensor: tensor.to(device))

    def moved(self, move: Callable[[Tensor], Tensor]) -> Head:
        """With what `move` makes of each tensor."""
        return Head(self.gather, [layer.moved(move) for layer in self.layers])

    @property
    def is_pooled(self) -> bool:
        """One vector for a row; else one for each of its tokens."""
        return self.gather in POOLED

    @property
    def tensors(self) -> list[Tensor]:
        return [part for layer in self.layers for part in (layer.weight, layer.bias) if part is not None]
