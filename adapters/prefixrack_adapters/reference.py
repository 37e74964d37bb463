"""A backbone beside the same one with its original weights, which stay in their files. Knows packs; no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families.stock import stored_dtype
from prefixrack_adapters.file_pages import FilePages
from prefixrack_adapters.readout import PendingLogits
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer


class Computed:
    """Logits that nobody has to wait for."""

    def __init__(self, logits: list[NDArray[np.float32]]) -> None:
        self._logits = logits

    def wait(self) -> list[NDArray[np.float32]]:
        return self._logits


class BesideReference:
    """A quantised backbone; `is_exact` rows are computed with the original weights, slowly, read from their files."""

    def __init__(self, backbone: Backbone, reference: Backbone) -> None:
        self._backbone = backbone
        self._reference = reference
        self.check = backbone.check

    @property
    def spec(self) -> BackboneSpec:
        return self._backbone.spec

    @property
    def tokenizer(self) -> BackboneTokenizer:
        return self._backbone.tokenizer

    @property
    def device(self) -> str:
        return self._backbone.device

    @property
    def dtype(self) -> torch.dtype:
        return self._backbone.dtype

    @property
    def is_asynchronous(self) -> bool:
        return self._backbone.is_asynchronous

    def launch(self, pack: Sequence[PackRow]) -> PendingLogits | Computed:
        if not any(entry.is_exact for entry in pack):
            return self._backbone.launch(pack)
        logits: list[Any] = [None] * len(pack)
        for is_exact, compute in ((False, self._backbone.compute), (True, self._exactly)):
            members = [index for index, entry in enumerate(pack) if entry.is_exact == is_exact]
            computed = compute([pack[index] for index in members]) if members else []
            for index, of_row in zip(members, computed, strict=True):
                logits[index] = of_row
        return Computed(logits)

    def _exactly(self, pack: Sequence[PackRow]) -> list[NDArray[np.float32]]:
        """What was read of the files goes back to the system afterwards: it would count as this process's memory."""
        reference, pages = self._reference, FilePages()
        logits = reference.compute(
            [
                PackRow(entry.row, entry.adapter and entry.adapter.to(reference.device, reference.dtype))
                for entry in pack
            ]
        )
        for parameter in reference.model.parameters():
            pages.give_back(parameter.data_ptr(), parameter.nbytes)
        return logits


def load_reference(folder: Path) -> Backbone:
    """A backbone in the dtype of its files, on the CPU: they are mapped, and no weight is copied."""
    stored = stored_dtype(folder) or torch.float32
    return Backbone.load(folder, "cpu", str(stored).removeprefix("torch."))
