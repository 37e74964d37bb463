"""Layers in bfloat16 on the matrix tiles of a processor that has them (AMX). Knows tensors only.

oneDNN's products are slower there with few tokens or an activation, and what stands between them takes as long as they.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prefixrack_adapters.native.activations import ACTIVATIONS
from prefixrack_adapters.native.compiler import compiled, load_library
from prefixrack_adapters.native.norm import Norm

SOURCE = Path(__file__).with_name("tile_layers.c")
SQUARE: Final = 32  # of tile_product.h: widths are multiples
SHARED_CACHE_BYTES: Final = 32 << 20  # of processors with tiles the smallest have about as much
LOG = logging.getLogger(__name__)


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class _LinearCall(ctypes.Structure):
    _fields_ = (
        ("layer", _Linear),
        ("states", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("activation", ctypes.c_int),
    )


class _LayerEnd(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("output", "up", "down")),
        *((name, Norm) for name in ("norm", "last_norm")),
        ("activation", ctypes.c_int),
    )


class _LayerEndCall(ctypes.Structure):
    _fields_ = (
        ("end", _LayerEnd),
        *((name, ctypes.c_void_p) for name in ("attended", "hidden", "out")),
    )


class _LayerCall(ctypes.Structure):
    _fields_ = (
        ("input", _Linear),
        ("end", _LayerEnd),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_heads")),
        *((name, ctypes.c_void_p) for name in ("starts", "prefix_keys", "prefix_values", "prefix_lens")),
        ("scale", ctypes.c_float),
    )


class _LayersCall(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_LayerCall)),
        ("num_layers", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("hidden", "out")),
    )


class TileKernels:
    """The compiled kernels, where `has_tiles` says that the processor and its system let them run."""

    def __init__(self) -> None:
        """Raises NoCompiler."""
        library = load_library(SOURCE)
        self.has_tiles = bool(library.prefixrack_has_tiles())
        if self.has_tiles:
            self.linear = library.prefixrack_tile_linear
            self.linear.argtypes = [ctypes.POINTER(_LinearCall), ctypes.c_int64]
            self.layer_end = library.prefixrack_tile_layer_end
            self.layer_end.argtypes = [ctypes.POINTER(_LayerEndCall), ctypes.c_int64]
            self.layers = library.prefixrack_tile_layers
            self.layers.argtypes = [ctypes.POINTER(_LayersCall), ctypes.c_int64]


class TileLinear:
    """y = activation(x W + b), of tensors on the CPU, without gradients."""

    def __init__(self, kernels: TileKernels, weight: Tensor, bias: Tensor) -> None:
        """weight [outputs, inputs], which is copied, and bias [outputs]."""
        self.kernels = kernels
        outputs, inputs = weight.shape
        panels = weight.view(outputs // SQUARE, 2, 16, inputs // SQUARE, 16, 2)
        self._weight = panels.permute(0, 3, 1, 4, 2, 5).contiguous()
        self._bias = bias.float()
        self.weight_bytes = self._weight.nbytes
        self.layer = _Linear(self._weight.data_ptr(), self._bias.data_ptr(), inputs, outputs)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Self | None:
        """None where there are no tiles, or where they do not compute a layer with this weight."""
        outputs, inputs = weight.shape
        if not weight.is_cpu or weight.dtype != torch.bfloat16 or outputs % SQUARE or inputs % SQUARE:
            return None
        kernels = compiled_tiles()
        return None if kernels is None else cls(kernels, weight, bias)

    def __call__(self, states: Tensor, activation: str = "none") -> Tensor:
        """states [T, inputs] → [T, outputs]. Activations have the names of `ACTIVATIONS`."""
        states = _run_of(states, self.layer.inputs)
        out = states.new_empty(len(states), self.layer.outputs)
        call = _LinearCall(self.layer, states.data_ptr(), out.data_ptr(), ACTIVATIONS[activation])
        _check(self.kernels.linear(call, len(states)), len(states))
        return out


class TileLayerEnd:
    """All that follows attention in a layer of BERT's form: a linear layer, a sum and a normalisation, then two linear
    layers, a sum and a normalisation."""

    def __init__(self, linears: Sequence[TileLinear], norms: Sequence[nn.LayerNorm], activation: str) -> None:
        """Of the layer, in its order: three linear layers, two norms that it `takes`, and what follows the second."""
        output, up, down = linears
        norm, last_norm = norms
        # whose memory the kernels read, whatever becomes of the modules
        self._parts = (*linears, *(part.detach() for norm in norms for part in (norm.weight, norm.bias)))
        self.kernels = output.kernels
        self.width = output.layer.outputs
        self.weight_bytes = sum(linear.weight_bytes for linear in linears)
        self.end = _LayerEnd(
            *(output.layer, up.layer, down.layer, Norm.of(norm), Norm.of(last_norm), ACTIVATIONS[activation])
        )

    @staticmethod
    def takes(norm: nn.LayerNorm) -> bool:
        """Whether it computes this normalisation."""
        weight, bias = norm.weight, norm.bias
        return weight.is_cpu and bias is not None and weight.dtype == bias.dtype == torch.bfloat16

    def __call__(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """What attention made of the hidden states, and these: both [T, hidden_size] → [T, hidden_size]."""
        attended, hidden = _run_of(attended, self.width), _run_of(hidden, self.width)
        assert len(attended) == len(hidden), "the same tokens"
        out = torch.empty_like(hidden)
        call = _LayerEndCall(self.end, attended.data_ptr(), hidden.data_ptr(), out.data_ptr())
        _check(self.kernels.layer_end(call, len(hidden)), len(hidden))
        return out


class TileLayer:
    """A whole layer of BERT's form, attention included."""

    def __init__(self, inputs: TileLinear, head_dim: int, scaling: float, end: TileLayerEnd) -> None:
        """`inputs` gives query, key and value side by side."""
        self.inputs, self.end = inputs, end
        self.num_heads, self.scaling = end.width // head_dim, scaling

    @property
    def weight_bytes(self) -> int:
        return self.inputs.weight_bytes + self.end.weight_bytes


class TileLayers:
    """The layers of a model. A thread takes its rows through as many of them at once as have weights that a cache of
    all cores holds: behind each call threads wait for the one whose core others took."""

    def __init__(self, layers: Sequence[TileLayer]) -> None:
        self._groups = _in_groups(layers)
        self._kernel = layers[0].end.kernels.layers
        self._width = layers[0].end.width

    def __call__(self, hidden: Tensor, starts: NDArray[np.int64], prefixes: NDArray[np.int64]) -> Tensor:
        """[T, hidden_size] → [T, hidden_size].

        starts [num_rows + 1] says where rows begin; prefixes [3, num_layers or 1, num_rows] are a `PrefixTable`'s.
        """
        hidden = _run_of(hidden, self._width)
        assert starts.dtype == prefixes.dtype == np.int64, "the kernel's numbers"
        assert starts[-1] == len(hidden), "the rows are all there is"
        assert prefixes.shape[1] in (1, sum(map(len, self._groups))), "one for all layers, or one for each"
        out = torch.empty_like(hidden)
        first = 0
        for group in self._groups:
            calls = (_LayerCall * len(group))()
            for index, layer in enumerate(group):
                entries = prefixes[:, (first + index) % prefixes.shape[1]]
                calls[index] = _layer_call(layer, starts, entries)
            call = _LayersCall(calls, len(group), hidden.data_ptr(), out.data_ptr())
            _check(self._kernel(call, len(hidden)), len(hidden))
            hidden, first = out, first + len(group)
        return out


def _in_groups(layers: Sequence[TileLayer]) -> list[list[TileLayer]]:
    groups: list[list[TileLayer]] = []
    for layer in layers:
        if not groups or sum(one.weight_bytes for one in (*groups[-1], layer)) > SHARED_CACHE_BYTES:
            groups.append([])
        groups[-1].append(layer)
    return groups


def _layer_call(layer: TileLayer, starts: NDArray[np.int64], entries: NDArray[np.int64]) -> _LayerCall:
    return _LayerCall(
        *(layer.inputs.layer, layer.end.end, len(starts) - 1, layer.num_heads),
        *(starts.ctypes.data, *(line.ctypes.data for line in entries), layer.scaling),
    )


def _run_of(states: Tensor, width: int) -> Tensor:
    assert states.dtype == torch.bfloat16, "the kernels read nothing else"
    assert states.dim() == 2, "a line for each token"
    assert states.shape[1] == width, "the layer's inputs"
    return states.contiguous()


def _check(failed: int, num_tokens: int) -> None:
    if failed:
        raise MemoryError(f"no memory for a layer of {num_tokens} tokens: use smaller packs")


@cache
def compiled_tiles() -> TileKernels | None:
    """The kernels, or None where there are no tiles. Without a compiler there is a line in the log."""
    without = "matrix tiles (AMX), where the processor has them, are left to oneDNN, which is slower"
    kernels = compiled(TileKernels, LOG, without)
    return kernels if kernels is not None and kernels.has_tiles else None
