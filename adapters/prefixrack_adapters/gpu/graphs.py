"""Forward passes recorded as CUDA graphs: one launch instead of some eight for each layer. Knows families and packs.

A recorded pass always computes the same addresses in the same shapes, so packs are rounded up to a few numbers of
tokens. How many rows a pack has, how long they are and which prefixes they see stands in a table of fixed size that the
kernels read, with idle entries behind the real ones. What is computed for tokens behind the pack's end belongs to no
row and is never read: in a transformer only attention looks from one token to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.attention import PackLayout
from prefixrack_adapters.families.base import Family
from prefixrack_adapters.gpu.attention import ALIGNMENT, PackTables, TritonAttention, items_of
from prefixrack_adapters.packing import token_array
from prefixrack_adapters.prefix_table import PrefixTable
from prefixrack_adapters.rows import Row

MOST_TOKENS = 16384  # of a recorded pass; larger packs are launched call by call, whose launches cost less than they do
MOST_ROWS = 1024
IDLE = -1  # of an entry in the table of items
NUM_WARM_UPS = 2  # before a recording: the first calls compile kernels and choose algorithms


class Size(NamedTuple):
    """What a pass is recorded for: so many tokens, and rows of at most so many (0: of any length)."""

    num_tokens: int
    longest_row: int


def rounded_up(num_tokens: int) -> int:
    """The number of tokens that a pack is recorded with: powers of two, and from 1,024 on a step of 512."""
    return power_of_two(num_tokens) if num_tokens <= 1024 else -(-num_tokens // 512) * 512


def power_of_two(number: int) -> int:
    """The next one, 32 at least."""
    return 1 << max(5, (number - 1).bit_length())


class RecordedPasses:
    """The passes of one backbone, each recorded when it is first needed. For one thread at a time."""

    def __init__(self, family: Family, attention: TritonAttention, num_layers: int) -> None:
        self._family = family
        self._attention = attention
        self._num_layers = num_layers
        parameter = next(family.model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._passes: dict[Size, RecordedPass] = {}
        self._memory: Any = torch.cuda.graph_pool_handle()  # shared: passes run one behind the other

    def hidden_states(self, rows: Sequence[Row], pack: PackLayout) -> Tensor | None:
        """As the family's own, [T, hidden_size]: to be read before the next pass. None for a pack that is not recorded.

        Rows have one dimension of positions and no soft prompt.
        """
        num_tokens = sum(pack.lengths)
        has_context = any(length is not None for length in pack.context_lens)
        if num_tokens > MOST_TOKENS or len(rows) > MOST_ROWS or pack.has_gates or has_context:
            return None
        table = PrefixTable.of(pack, self._dtype)
        if (table.entries[:2] % ALIGNMENT).any():
            return None
        size = Size(rounded_up(num_tokens), 0)
        if self._family.looks_at_longest_row:
            size = Size(size.num_tokens, power_of_two(max(pack.lengths)))
        if size not in self._passes:
            self._passes[size] = RecordedPass(
                self._family, self._attention, size, self._num_layers, self._device, self._memory
            )
        return self._passes[size].run(token_array(rows), np.array(pack.lengths, dtype=np.int64), table)


class RecordedPass:
    """One graph, its input on the device, and its output."""

    def __init__(
        self,
        family: Family,
        attention: TritonAttention,
        size: Size,
        num_layers: int,
        device: torch.device,
        memory: Any,
    ) -> None:
        self._block = attention.blocks.queries
        num_tokens, longest_row = size
        self._num_layers = num_layers
        self._num_rows = min(MOST_ROWS, num_tokens)
        self._num_items = -(-num_tokens // self._block) + self._num_rows
        sizes = (3 * num_tokens, 3 * num_layers * self._num_rows, self._num_rows + 1, *(self._num_items,) * 2)
        self._bounds = np.cumsum((0, *sizes))
        self._input = torch.zeros(int(self._bounds[-1]), dtype=torch.int64, device=device)
        tokens, prefixes, starts, item_rows, item_firsts = self._input.split(sizes)
        item_rows.fill_(IDLE)
        tables = PackTables(
            prefixes.view(num_layers, 3, self._num_rows), starts, starts, item_rows, item_firsts, (), is_aligned=True
        )
        # Its lengths are read for the longest alone: all others stand in the tables.
        self._pack = PackLayout([longest_row or num_tokens], [None], attention)
        self._pack.has_prefixes = True
        attention.use_tables(self._pack, tables)
        self._graph, self._hidden = _recorded(family, tokens.view(3, num_tokens), self._pack, memory)

    def run(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], table: PrefixTable) -> Tensor:
        """[T, hidden_size] of tokens [3, T]: ids, segments and positions. What the table points into is kept."""
        num_tokens, num_rows = tokens.shape[1], len(lengths)
        host = torch.zeros(len(self._input), dtype=torch.int64, pin_memory=True)
        of_tokens, prefixes, starts, item_rows, item_firsts = np.split(host.numpy(), self._bounds[1:-1])
        of_tokens.reshape(3, -1)[:, :num_tokens] = tokens
        entries = table.entries
        prefixes.reshape(self._num_layers, 3, -1)[: entries.shape[1], :, :num_rows] = entries.transpose(1, 0, 2)
        starts[1 : num_rows + 1] = lengths.cumsum()
        rows, firsts = items_of(lengths, self._block)
        item_rows[: len(rows)], item_rows[len(rows) :] = rows, IDLE
        item_firsts[: len(rows)] = firsts
        self._input.copy_(host, non_blocking=True)
        self._graph.replay()
        self._alive = table.alive  # until the next pass, which the device begins when it is through with this one
        return self._hidden[:num_tokens]


def _recorded(family: Family, tokens: Tensor, pack: PackLayout, memory: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    ids, segments, positions = tokens.unbind(0)

    def run() -> Tensor:
        return family.hidden_states(family.words(ids), segments, positions, pack)

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(NUM_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # Loader threads go on using the device meanwhile: what they do is no part of the recording.
    with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
        hidden = run()
    return graph, hidden
