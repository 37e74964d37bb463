"""All heads of a pack that have a kernel, in one reading; the others one by one. Knows heads and spans; no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from torch import Tensor

from prefixrack_adapters.gpu.heads import HeadStates, can_run_together, logits_of
from prefixrack_adapters.heads import Head
from prefixrack_adapters.packing import RowSpan, picked_tokens
from prefixrack_adapters.readout import Reading, Share, by_head, read_head, shares_of
from prefixrack_adapters.transfer import to_device


def read_together(hidden: Tensor, spans: Sequence[RowSpan], heads: Mapping[int, Head | None]) -> list[Reading]:
    """As `readout.read_heads`."""
    readings: list[Reading] = []
    groups: list[HeadStates] = []
    picks: list[Sequence[int]] = []
    shares: list[Share] = []
    num_states = 0
    for head, rows in by_head(heads):
        if head is None or head.gather == "mean_tokens" or not can_run_together(head):
            readings.append(read_head(hidden, spans, head, rows))
            continue
        of_rows = [picked_tokens(spans[row], head.gather) for row in rows]
        counts = [len(of_row) for of_row in of_rows]
        width = head.layers[-1].weight.shape[0]
        shares += shares_of(rows, counts, width, head.is_pooled, num_states)
        picks += of_rows
        groups.append(HeadStates(head, sum(counts)))
        num_states += sum(counts)
    if groups:
        index = np.fromiter(chain.from_iterable(picks), dtype=np.int64, count=num_states)
        states = hidden.index_select(0, to_device(index, hidden.device))
        readings.append(Reading(logits_of(states, groups), shares))
    return readings
