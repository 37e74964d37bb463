"""The activations that kernels in C compute, by name: their numbers in activation.h."""

from __future__ import annotations

from typing import Final

ACTIVATIONS: Final = {"none": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
