"""How large packs should be: where more tokens at once bring no more of them per second. Knows no queue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.engine_config import USUAL_PACK_TOKENS
from prefixrack_server.pack_runner import Computes

log = logging.getLogger(__name__)

# Of the best rate: smaller packs answer sooner, which is worth that much.
CLOSE = 0.95
# Of what is chosen; smaller packs are only computed to be warm.
SMALLEST = 256
# A doubling that brings less is a sign of the knee; two of them are taken for it.
MIN_GAIN = 1.05
# After one that is not timed; of small packs more, so that noise is as likely to be met by them.
MIN_RUNS = 2
MIN_TOKENS = 1024
SEED = 0


class Trial(NamedTuple):
    """Which packs are tried, and for how long at most. On a GPU the first packs compile and record what
    the first requests would wait for, from the smallest on; there `step` is that of the numbers of tokens which passes
    are recorded for (`prefixrack_adapters.gpu.graphs.rounded_up`)."""

    first: int
    ceiling: int
    limit_s: float
    step: int | None = None


ON_CPU = Trial(first=SMALLEST, ceiling=4096, limit_s=2.0)
ON_GPU = Trial(first=32, ceiling=16384, limit_s=30.0, step=512)


class PackRate(NamedTuple):
    num_tokens: int
    tokens_per_s: float


class Measurable(Computes, Protocol):
    @property
    def spec(self) -> BackboneSpec: ...


def measured_size(backbone: Measurable, max_rows: int, clock: Callable[[], float], goes_on: Callable[[], bool]) -> int:
    """The number of tokens for packs of this backbone on this machine. `goes_on` is asked before each pack."""
    trial = ON_GPU if backbone.is_asynchronous else ON_CPU
    give_up_at = clock() + trial.limit_s
    rates = list(until_flat(pack_rates(backbone, trial, max_rows, clock, goes_on)))
    size = knee(rates)
    if trial.step is not None:
        between = [tokens for tokens in range(trial.step, size, trial.step) if tokens & (tokens - 1)]
        record(backbone, between, max_rows, lambda: clock() < give_up_at and goes_on())
    table = ", ".join(f"{rate.num_tokens}: {rate.tokens_per_s:,.0f}" for rate in rates) or "none was computed"
    log.info("tokens per second by tokens in a pack: %s; packs have up to %d tokens", table, size)
    return size


def knee(rates: Sequence[PackRate]) -> int:
    """The smallest size whose rate is close to the best one. Where that is the last, the rate may rise beyond: then it
    is the usual size at least, which it is too where nothing was measured."""
    enough = CLOSE * max((rate.tokens_per_s for rate in rates), default=0.0)
    size = min((rate.num_tokens for rate in rates if rate.tokens_per_s >= enough), default=0)
    is_last = not rates or size == rates[-1].num_tokens
    return max(size, USUAL_PACK_TOKENS if is_last else SMALLEST)


def until_flat(rates: Iterator[PackRate]) -> Iterator[PackRate]:
    """The rates, up to the second in a row that is hardly better than the best before."""
    best, num_flat = 0.0, 0
    for rate in rates:
        yield rate
        num_flat = 0 if rate.tokens_per_s > best * MIN_GAIN else num_flat + 1
        best = max(best, rate.tokens_per_s)
        if num_flat == 2:
            return


def pack_rates(
    backbone: Measurable, trial: Trial, max_rows: int, clock: Callable[[], float], goes_on: Callable[[], bool]
) -> Iterator[PackRate]:
    """Each twice the size of the one before, as long as time, `max_rows` and the device's memory allow."""
    give_up_at = clock() + trial.limit_s
    num_tokens = trial.first
    while num_tokens <= trial.ceiling:
        pack = [PackRow(row, None) for row in natural_rows(num_tokens, backbone.spec)]
        if len(pack) > max_rows:
            return
        seconds = _mean_seconds(backbone, pack, 1 + max(MIN_RUNS, MIN_TOKENS // num_tokens), clock, goes_on)
        if seconds is None:
            return
        yield PackRate(num_tokens, num_tokens / max(seconds, 1e-9))
        num_tokens *= 2
        if clock() + 2 * (1 + MIN_RUNS) * seconds > give_up_at:
            return


def record(backbone: Measurable, sizes: Sequence[int], max_rows: int, goes_on: Callable[[], bool]) -> None:
    """Compute a pack of each of these sizes, between those that were tried: what they have to compile or record, no
    request waits for."""
    for num_tokens in sizes:
        pack = [PackRow(row, None) for row in natural_rows(num_tokens, backbone.spec)]
        if len(pack) > max_rows or not _is_computed(backbone, pack, goes_on):
            return


def _mean_seconds(
    backbone: Measurable,
    pack: Sequence[PackRow],
    runs: int,
    clock: Callable[[], float],
    goes_on: Callable[[], bool],
) -> float | None:
    """Of all runs but the first, which compiles what has to be."""
    started_at = clock()
    for run in range(runs):
        if not _is_computed(backbone, pack, goes_on):
            return None
        if run == 0:
            started_at = clock()
    return (clock() - started_at) / (runs - 1)


def _is_computed(backbone: Measurable, pack: Sequence[PackRow], goes_on: Callable[[], bool]) -> bool:
    if not goes_on():
        return False
    try:
        backbone.launch(pack).wait()
    except Exception:  # out of memory, most likely: smaller packs are what can be used
        log.warning("a pack of %d rows could not be computed at start", len(pack), exc_info=True)
        return False
    return True


def natural_rows(num_tokens: int, spec: BackboneSpec) -> list[Row]:
    """Rows of natural lengths (lognormal(3.2, 0.6) in 6 to 128), of so many tokens together: the last one is cut."""
    random = np.random.default_rng(SEED)
    longest = min(128, spec.max_tokens(spec.base_position))
    rows: list[Row] = []
    left = num_tokens
    while left:
        length = min(left, int(np.clip(random.lognormal(3.2, 0.6), min(6, longest), longest)))
        token_ids = tuple(random.integers(0, spec.vocab_size, length).tolist())
        rows.append(Row(token_ids, (0,) * length, spec.base_position))
        left -= length
    return rows
