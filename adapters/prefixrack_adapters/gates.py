"""Gates: how much of its prefix each layer shows to a row, by the row's own states. Knows no models and no adapters.

AdapterHub's prefix tuning has them (`use_gating`, from UniPELT, arXiv 2110.07577): a layer's prefix keys and values are
scaled by the mean, over the tokens of a row, of a sigmoid of what enters the layer's attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Gate:
    """weight [1 or 2, hidden_size] and bias [1 or 2] of one layer: for keys and values together, or for each."""

    weight: Tensor
    bias: Tensor

    def scales(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What keys and what values are multiplied with, for a row of states [row_len, hidden_size]. In float32."""
        opened = F.linear(states.float(), self.weight, self.bias).sigmoid().mean(dim=0)
        return opened[0], opened[-1]

    def to(self, device: str) -> Gate:
        return Gate(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class GatedPrefix:
    """A prefix as attention takes it, and the gate of each layer; None for a layer without a prefix."""

    layers: Tensor | Sequence[Tensor | None]
    gates: Sequence[Gate | None]
