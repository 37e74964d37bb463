"""Layers of a stock model give way to those that inference runs, one by one. Knows no models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from prefixrack_adapters.file_pages import FilePages

L = TypeVar("L")


def replace_layers(layers: nn.ModuleList, make: Callable[[Any, int], L]) -> list[L]:
    """What `make` makes of each layer and its number. `layers` is empty afterwards.

    Each stock layer is let go at once: at no time are all weights there twice. What was read of a mapped file goes back
    to the system, which would count it beside its copy otherwise.
    """
    made: list[L] = []
    pages = FilePages()
    while layers:
        made.append(make(layers[0], len(made)))
        for parameter in layers[0].parameters():
            if parameter.is_cpu:
                pages.give_back(parameter.data_ptr(), parameter.nbytes)
        del layers[0]
    return made
