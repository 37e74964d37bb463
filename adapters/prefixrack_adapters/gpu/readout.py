"""All heads of a pack that have a kernel, in one reading; the others one by one. Knows heads and spans; no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from prefixrack_adapters.dense import Dense
from prefixrack_adapters.gpu.heads import HeadStates, logits_of
from prefixrack_adapters.head_layout import HeadLayout
from prefixrack_adapters.heads import MEANS, Head
from prefixrack_adapters.packing import RowSpan, picked_tokens
from prefixrack_adapters.readout import Reading, Share, by_head, read_head, shares_of
from prefixrack_adapters.transfer import to_device


class HeadsTogether:
    """A `Readout`."""

    @classmethod
    def compiled(cls, hidden_size: int, dtype: torch.dtype, device: torch.device) -> HeadsTogether:
        """With the kernel compiled for what it will read, a backbone's states and those between a head's layers: the
        first request would wait for that."""
        head = Head("first_token", [Dense(torch.zeros(1, hidden_size, device=device), None, None)])
        layout = layout_of(head)
        assert layout is not None, "it is a plain layer in float32"
        for read in {dtype, torch.float32}:
            logits_of(torch.zeros(1, hidden_size, dtype=read, device=device), [HeadStates(layout, 0, 1)])
        return cls()

    def read(self, hidden: Tensor, spans: Sequence[RowSpan], heads: Mapping[int, Head | None]) -> list[Reading]:
        readings: list[Reading] = []
        groups: list[HeadStates] = []
        picks: list[Sequence[int]] = []
        shares: list[Share] = []
        num_states = 0
        for head, rows in by_head(heads):
            layout = None if head is None else layout_of(head)
            if head is None or layout is None:
                readings.append(read_head(hidden, spans, head, rows))
                continue
            of_rows = [picked_tokens(spans[row], head.gather) for row in rows]
            counts = [len(of_row) for of_row in of_rows]
            shares += shares_of(rows, counts, layout.num_outputs, head.is_pooled, num_states)
            picks += of_rows
            groups.append(HeadStates(layout, num_states, sum(counts)))
            num_states += groups[-1].num
        if groups:
            index = np.fromiter(chain.from_iterable(picks), dtype=np.int64, count=num_states)
            states = hidden.index_select(0, to_device(index, hidden.device))
            readings.append(Reading(logits_of(states, groups), shares))
        return readings


def layout_of(head: Head) -> HeadLayout | None:
    """None for a head that the kernel does not compute."""
    return None if head.gather in MEANS else head.layout
