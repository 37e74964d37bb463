"""Heads: the small trained layers from hidden states to logits. Knows no tasks and no manifest, only dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from prefixrack_adapters.dense import Dense
from prefixrack_adapters.head_layout import HeadLayout

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


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Dense layers over the gathered states. Covers linear, pooler + linear, dense + tanh + linear.

    A head is itself and no other. `layout`, None where no kernel computes its layers, is found out with it: among
    thousands of adapters each tensor that a pack looks at is far away in memory.
    """

    gather: Gather
    layers: Sequence[Dense]
    layout: HeadLayout | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", HeadLayout.of(self.layers))

    def __call__(self, states: Tensor) -> Tensor:
        """[n, hidden_size] → float32 logits [n, num_outputs]. Computed in the layers' own dtype."""
        if not self.layers:
            return states.float()
        states = states.to(self.layers[0].weight.dtype)
        for layer in self.layers:
            states = layer(states)
        return states.float()

    def __reduce__(self) -> tuple[type[Head], tuple[Gather, Sequence[Dense]]]:
        """The weights of a copy lie elsewhere."""
        return Head, (self.gather, self.layers)

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
