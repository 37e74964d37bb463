"""Checkpoints as SwissArmyTransformer saves them, on a tiny GLM of 2021."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from prefixrack_adapters.importers.base import Source
from prefixrack_adapters.spec import BackboneSpec
from tiny import write_glm2021

WIDTH, HEADS, PREFIX_LEN = 32, 4, 5
State = dict[str, Tensor]


def trained(num_outputs: int | None = 1) -> State:
    random = torch.Generator().manual_seed(7)
    state = {
        f"mixins.ptuning.prefix.{layer}": torch.randn(2, HEADS, PREFIX_LEN, WIDTH // HEADS, generator=random)
        for layer in range(2)
    }
    if num_outputs is not None:
        for index, shape in enumerate([(16, WIDTH), (num_outputs, 16)]):
            name = f"mixins.classification_head.layers.{index}"
            state |= {f"{name}.weight": torch.randn(shape, generator=random), f"{name}.bias": torch.ones(shape[0])}
    return state


class SatCheckpoint:
    """A backbone, and a checkpoint on it that a test may spoil."""

    def __init__(self, backbone: Path, folder: Path) -> None:
        self.backbone = write_glm2021(backbone)
        self.folder = folder

    def frozen(self) -> State:
        return load_file(self.backbone / "model.safetensors")

    def write(self, state: State, ranks: int = 1) -> SatCheckpoint:
        (self.folder / "1000").mkdir(parents=True)
        (self.folder / "latest").write_text("1000")
        for rank in range(ranks):
            torch.save({"module": state}, self.folder / "1000" / f"mp_rank_{rank:02d}_model_states.pt")
        return self

    def source(self, **options: object) -> Source:
        return Source(self.folder, BackboneSpec.load(self.backbone), self.backbone, **options)  # type: ignore[arg-type]
