"""Like parameters of several runs in one tensor each, and the optimizer that steps them all. Knows no rows, no losses.

On a GPU a step of small tensors costs what its calls cost, so a call must do the same for every run at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from prefixrack_adapters.training.model import Encoder, PromptModel
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder
from prefixrack_adapters.transfer import to_device

MAX_NORM = 1.0  # of a run's gradients, as in a run alone


class Rates(NamedTuple):
    """A run's learning rates in one step. 0 leaves its tensors as they are, bit for bit."""

    rate: float
    head_rate: float


class Stack:
    """One parameter of several runs, [num_runs, *shape]. Each run's own parameter becomes a view, its gradient too."""

    def __init__(self, name: str, parameters: Sequence[nn.Parameter], owners: Sequence[int], is_head: bool) -> None:
        """`owners` are the runs' numbers. Biases do not decay, as transformers' Trainer has it."""
        self.values = nn.Parameter(torch.stack([one.detach() for one in parameters]))
        self.gradient = torch.zeros_like(self.values)
        self.values.grad = self.gradient
        self.owners = list(owners)
        self.is_head = is_head
        self.decays = "bias" not in name
        for one, values, gradient in zip(parameters, self.values.detach(), self.gradient, strict=True):
            one.data = values
            one.grad = gradient

    def by_run(self, scalars: Tensor) -> Tensor:
        """A scalar for each run, in the shape in which it multiplies the stack."""
        return scalars.view(-1, *[1] * (self.values.dim() - 1))


class EncoderStack:
    """Encoders of one form, run as one: the runs' prefixes, before dropout, or soft prompts in a few calls."""

    def __init__(self, encoders: Sequence[Encoder], owners: Sequence[int]) -> None:
        self.owners = list(owners)
        self._form = deepcopy(encoders[0]).to("meta")
        several = [dict(encoder.named_parameters()) for encoder in encoders]
        self.stacks = {name: Stack(name, [one[name] for one in several], owners, is_head=False) for name in several[0]}

    def __call__(self) -> Tensor:
        """[num_runs, …], as an encoder's forward() gives it."""

        def run(values: dict[str, Tensor]) -> Tensor:
            states: Tensor = functional_call(self._form, values, ())
            return states

        together: Tensor = vmap(run)({name: one.values for name, one in self.stacks.items()})
        return together


@dataclass(frozen=True, slots=True)
class Stacks:
    """All that several runs train; of a frozen parameter nothing is here."""

    encoders: Sequence[EncoderStack]
    heads: Sequence[Stack]

    @classmethod
    def of(cls, models: Sequence[PromptModel]) -> Stacks:
        forms: dict[object, list[int]] = {}
        heads: dict[tuple[str, torch.Size], list[tuple[int, nn.Parameter]]] = {}
        for run, model in enumerate(models):
            if model.encoder is not None:
                forms.setdefault(_form_of(model.encoder), []).append(run)
            for name, parameter in model.heads.named_parameters():
                if parameter.requires_grad:
                    heads.setdefault((name, parameter.shape), []).append((run, parameter))
        encoders = [EncoderStack([_encoder(models[run]) for run in runs], runs) for runs in forms.values()]
        stacks = [
            Stack(name, [parameter for _, parameter in members], [run for run, _ in members], is_head=True)
            for (name, _), members in heads.items()
        ]
        return cls(encoders, stacks)

    @property
    def all(self) -> list[Stack]:
        return [*(stack for encoder in self.encoders for stack in encoder.stacks.values()), *self.heads]

    def clear_gradients(self) -> None:
        torch._foreach_zero_([stack.gradient for stack in self.all])


def _encoder(model: PromptModel) -> Encoder:
    assert model.encoder is not None, "only runs with an encoder are stacked by its form"
    return model.encoder


def _form_of(encoder: Encoder) -> object:
    """What encoders have in common that can run as one."""
    shapes = tuple((name, one.shape) for name, one in encoder.named_parameters())
    if isinstance(encoder, PrefixEncoder):
        return (encoder.shape, tuple(encoder.layers), shapes)
    return shapes


class StackedAdamW:
    """torch's AdamW and the clipping of a run alone, with rates and weight decay of each run.

    torch's optimizers have one rate for a tensor, in which several runs lie here. So AdamW steps at rate 1, and of what
    it changes each run takes the share that its own rate is: the rate multiplies the whole change, decay included.
    """

    def __init__(self, stacks: Stacks, weight_decays: Sequence[float]) -> None:
        self._stacks = stacks.all
        self._device = self._stacks[0].values.device
        self._num_runs = len(weight_decays)
        self._owners = to_device(np.array([run for stack in self._stacks for run in stack.owners]), self._device)
        decays = [[weight_decays[run] * stack.decays for run in stack.owners] for stack in self._stacks]
        self._decays = self._by_stack(decays) if any(map(any, decays)) else None
        is_cuda = self._device.type == "cuda"
        values = [stack.values for stack in self._stacks]
        self._adamw = torch.optim.AdamW(values, lr=1.0, weight_decay=0.0, fused=is_cuda, foreach=not is_cuda)

    @torch.no_grad()
    def step(self, rates: Sequence[Rates]) -> Tensor:
        """Step every run at its rates. Gives the norm of each run's gradients before clipping."""
        norms = self._clip()
        before = [stack.values.clone() for stack in self._stacks]
        self._adamw.step()
        shares = self._by_stack([[rates[run][stack.is_head] for run in stack.owners] for stack in self._stacks])
        for number, (stack, old, share) in enumerate(zip(self._stacks, before, shares, strict=True)):
            if self._decays is not None:
                stack.values.addcmul_(old, self._decays[number], value=-1)
            stack.values.copy_(torch.lerp(old, stack.values, share))
        return norms

    def _clip(self) -> Tensor:
        squares = torch.cat([stack.gradient.flatten(1).square().sum(dim=1) for stack in self._stacks])
        norms = squares.new_zeros(self._num_runs).index_add_(0, self._owners, squares).sqrt()
        factors = (MAX_NORM / (norms + 1e-6)).clamp(max=1.0).index_select(0, self._owners)
        for stack, factor in zip(self._stacks, self._split(factors), strict=True):
            stack.gradient.mul_(factor)
        return norms

    def _by_stack(self, values: Sequence[Sequence[float]]) -> list[Tensor]:
        """Numbers of each run of each stack, on the device in one copy."""
        flat = np.array([value for of_stack in values for value in of_stack], dtype=np.float32)
        return self._split(to_device(flat, self._device))

    def _split(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([len(stack.owners) for stack in self._stacks])
        return [stack.by_run(part) for stack, part in zip(self._stacks, parts, strict=True)]
