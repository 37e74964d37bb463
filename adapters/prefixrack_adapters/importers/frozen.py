"""The frozen part of a checkpoint that holds a whole model: compared with the base, tensor by tensor. Knows no tool.

A prefix fits one set of frozen weights only, and nothing in a wrong answer would show that it ran on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import BackboneMismatch
from prefixrack_adapters.architectures import ARCHITECTURES
from prefixrack_adapters.importers.base import Arrays, Source
from prefixrack_adapters.weights import WeightTensor, weight_tensors

TOLERANCE = 1e-6  # frozen weights are copied, never computed: more than a last bit is another model
BUFFERS = "position_ids"  # counted, not learnt; newer versions no longer store them
POOLER = "pooler."


@dataclass
class Separated:
    """A checkpoint taken apart: what was trained (`own`, by its name there) and what the base does not have.

    `base` are the backbone's tensors by base-model name, mapped; `lacking` are frozen tensors that the checkpoint has
    and the base has not: RoBERTa's public weights come without a pooler, so it was drawn at random and kept.
    """

    base: Mapping[str, WeightTensor]
    own: Arrays = field(default_factory=dict)
    lacking: Arrays = field(default_factory=dict)
    num_compared: int = 0

    def frozen(self, name: str) -> NDArray[np.float32] | None:
        """A frozen tensor by base-model name: the checkpoint's, else the base's, else None."""
        if name in self.lacking:
            return self.lacking[name]
        return self.base[name].read() if name in self.base else None


def separate(
    tensors: Iterable[tuple[str, NDArray[np.float32]]], source: Source, own_modules: tuple[str, ...]
) -> Separated:
    """Take a checkpoint apart in one pass; no more than one pair of frozen tensors lies in memory at a time.

    `own_modules` are the first parts of the trained tensors' names. Raises BackboneMismatch, naming the first tensor
    that differs from the base's or that the base should have.
    """
    base_name = ARCHITECTURES[source.spec.architecture].base_name
    base = {base_name(tensor.name): tensor for tensor in weight_tensors(source.backbone)}
    result = Separated(base)
    for name, values in tensors:
        known = base_name(name)
        if name.startswith(own_modules):
            result.own[name] = values.copy()  # a view would keep the whole file mapped
        elif known in base and not name.endswith(BUFFERS):
            _compare(name, values, base[known], source)
            result.num_compared += 1
        elif known.startswith(POOLER):
            result.lacking[known] = values.copy()
        elif not name.endswith(BUFFERS):
            raise BackboneMismatch(
                f"{source.folder} has a tensor {name!r} {list(values.shape)} that the backbone "
                f"{source.spec.model_id!r} lacks: give --backbone the model that training started from"
            )
    return result


def _compare(name: str, values: NDArray[np.float32], tensor: WeightTensor, source: Source) -> None:
    seen = f"{list(values.shape)}, the backbone's has {list(tensor.shape)}"
    if values.shape == tensor.shape:
        frozen = tensor.read()
        if np.array_equal(values, frozen):
            return
        difference = float(np.abs(tensor.as_stored(values) - frozen).max())  # a backbone may be kept in half precision
        if difference <= TOLERANCE:  # not a number is not
            return
        seen = f"{list(values.shape)} and differs from the backbone's by up to {difference:.3g}"
    raise BackboneMismatch(
        f"the frozen tensor {name!r} of {source.folder} has shape {seen}: it was not trained on "
        f"{source.spec.model_id!r}, or the backbone was trained along with it; give --backbone the model that training "
        "started from, frozen"
    )
