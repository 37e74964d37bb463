"""How many threads compute on a CPU: one for each core, or one less where HTTP needs a core more. Knows no queue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from prefixrack_adapters.backbone import PackRow
from prefixrack_server.pack_size import Measurable, natural_rows

log = logging.getLogger(__name__)

# Twice what a request takes the event loop beside packs. Where a row takes less, the loop is what callers wait for, and
# what it waits for are threads that compute on every core and spin for each other: see benchmarks/NOTES.md.
QUICK_ROW_S: Final = 0.0008
NUM_TOKENS: Final = 256
NUM_RUNS: Final = 4
# Times what would be quick: no need to look closer, and on a slow machine each look takes seconds.
FAR: Final = 10


def chosen_threads(backbone: Measurable, num_cores: int, clock: Callable[[], float]) -> int:
    """`num_cores`, or one less if rows of natural lengths are computed quickly by the others.

    Call it in a thread that computes with one thread. It computes a few packs; on a GPU none.
    """
    if backbone.is_asynchronous or num_cores < 2:
        return num_cores
    pack = [PackRow(row, None) for row in natural_rows(NUM_TOKENS, backbone.spec)]
    quick_s = QUICK_ROW_S * len(pack) * (num_cores - 1)
    seconds = _best_seconds(backbone, pack, clock, FAR * quick_s)
    chosen = num_cores - 1 if seconds <= quick_s else num_cores
    log.info("a row takes %.2f ms on one core: %d of %d compute", 1e3 * seconds / len(pack), chosen, num_cores)
    return chosen


def _best_seconds(backbone: Measurable, pack: Sequence[PackRow], clock: Callable[[], float], far_s: float) -> float:
    """Of a few runs, of which the first compiles what has to be; of that one alone if it took longer than `far_s`."""
    best = float("inf")
    for _ in range(NUM_RUNS):
        started_at = clock()
        backbone.launch(pack).wait()
        best = min(best, clock() - started_at)
        if best > far_s:
            break
    return best
