"""What the engine is held against in this process: the bare padded backbone, and the limit set by its GEMMs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel

from cuda_graph import Recorded
from prefixrack_adapters.rows import Row

LinearCall = Callable[[Tensor], Tensor]


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall time of one call, the device's work included."""
    synchronise(device)
    started_at = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started_at


class BarePadded:
    """Stock transformers with its default attention: one padded batch, no adapters."""

    def __init__(self, backbone: Path, device: str, dtype: torch.dtype) -> None:
        self._device = device
        self.model: nn.Module = AutoModel.from_pretrained(backbone, dtype=dtype).eval().to(device)

    @torch.inference_mode()
    def hidden_states(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """[row_len, hidden_size] of each row."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row.token_ids, *[0] * (longest - len(row))] for row in rows], device=self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = (torch.arange(longest, device=self._device) < lengths[:, None]).long()
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float().cpu()
        return [states[: len(row)].numpy() for states, row in zip(hidden, rows, strict=True)]

    def seconds(self, rows: Sequence[Row]) -> float:
        return seconds(lambda: self.hidden_states(rows), self._device)


class GemmLimit(Protocol):
    """The time of the backbone's linear layers alone, for a pack of so many tokens. Sweeps go through all layers in
    order, so that each weight comes from memory as it does in a forward pass."""

    def sweep(self) -> float:
        """Time every layer once. Returns the seconds that this took."""

    def seconds(self, num_sweeps: int) -> list[float]:
        """Of all layers in each of the last sweeps."""


def gemm_limit(model: nn.Module, num_tokens: int, device: str, dtype: torch.dtype) -> GemmLimit:
    linears = [module for name, module in model.named_modules() if is_encoder_linear(name, module)]
    inputs = {
        linear.in_features: torch.randn(num_tokens, linear.in_features, device=device).to(dtype) for linear in linears
    }
    return CpuGemmLimit(linears, inputs, num_tokens) if device == "cpu" else GpuGemmLimit(linears, inputs, device)


class GpuGemmLimit:
    """All layers in one recording: timed one by one, each would count the wait for it too."""

    def __init__(self, linears: Sequence[nn.Linear], inputs: Mapping[int, Tensor], device: str) -> None:
        self._linears, self._inputs, self._device = linears, inputs, device
        self._recorded = Recorded(self._products)
        self._sweeps: list[float] = []

    @torch.inference_mode()
    def _products(self) -> None:
        for linear in self._linears:
            F.linear(self._inputs[linear.in_features], linear.weight, linear.bias)

    def sweep(self) -> float:
        self._sweeps.append(seconds(self._recorded.replay, self._device))
        return self._sweeps[-1]

    def seconds(self, num_sweeps: int) -> list[float]:
        return self._sweeps[-num_sweeps:]


class CpuGemmLimit:
    """Each shape in its fastest form: `F.linear`, or the prepacked oneDNN kernel."""

    def __init__(self, linears: Sequence[nn.Linear], inputs: Mapping[int, Tensor], num_tokens: int) -> None:
        self._inputs = inputs
        makers: dict[str, Callable[[nn.Linear], LinearCall]] = {"F.linear": plain, "oneDNN": prepacked(num_tokens)}
        self._forms = {form: [(linear, make(linear)) for linear in linears] for form, make in makers.items()}
        self._sweeps: dict[tuple[str, torch.Size], list[float]] = defaultdict(list)

    @torch.inference_mode()
    def sweep(self) -> float:
        """Time every layer once in every form. Returns the whole sweep's seconds."""
        started_at = time.perf_counter()
        for form, calls in self._forms.items():
            totals: dict[torch.Size, float] = defaultdict(float)
            for linear, call in calls:
                states = self._inputs[linear.in_features]
                totals[linear.weight.shape] += seconds(lambda call=call, states=states: call(states), "cpu")  # type: ignore[misc]
            for shape, total in totals.items():
                self._sweeps[form, shape].append(total)
        return time.perf_counter() - started_at

    def seconds(self, num_sweeps: int) -> list[float]:
        """Of all layers in each of the last sweeps, every shape in the form that is fastest in the median."""
        shapes = {shape for _, shape in self._sweeps}
        fastest = [
            min((self._sweeps[form, shape][-num_sweeps:] for form in self._forms), key=statistics.median)
            for shape in shapes
        ]
        return [sum(of_sweep) for of_sweep in zip(*fastest, strict=True)]


def is_encoder_linear(name: str, module: nn.Module) -> TypeGuard[nn.Linear]:
    return isinstance(module, nn.Linear) and "pooler" not in name


def plain(linear: nn.Linear) -> LinearCall:
    return lambda states: F.linear(states, linear.weight, linear.bias)


def prepacked(num_tokens: int) -> Callable[[nn.Linear], LinearCall]:
    """The kernel that `torch.compile` uses with frozen weights: oneDNN with the weight in its blocked layout."""

    def make(linear: nn.Linear) -> LinearCall:
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), num_tokens)
        return lambda states: torch.ops.mkldnn._linear_pointwise(states, weight, linear.bias, "none", [], "")

    return make
