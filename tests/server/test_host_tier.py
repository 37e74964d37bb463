"""Host memory for adapters: what was used last stays, within the budget, whatever comes and goes."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from prefixrack_server.host_tier import HostTier

BUDGET_BYTES = 10
DIGESTS = st.sampled_from("abcdef")
PUTS = st.tuples(st.just("put"), DIGESTS, st.integers(0, 12))
OTHERS = st.tuples(st.sampled_from(["get", "touch", "drop"]), DIGESTS, st.just(0))


@given(st.lists(PUTS | OTHERS))
def test_it_holds_what_a_list_by_last_use_would(operations: list[tuple[str, str, int]]) -> None:
    tier: HostTier[str] = HostTier(BUDGET_BYTES)
    sizes: OrderedDict[str, int] = OrderedDict()  # least recently used first
    num_hits = 0
    for operation, digest, size_bytes in operations:
        if operation == "put":
            tier.put(digest, digest.upper(), size_bytes)
            sizes.pop(digest, None)
            if size_bytes <= BUDGET_BYTES:
                sizes[digest] = size_bytes
            while sum(sizes.values()) > BUDGET_BYTES:
                sizes.popitem(last=False)
        elif operation == "drop":
            tier.drop(digest)
            sizes.pop(digest, None)
        else:
            found = tier.get(digest) if operation == "get" else tier.touch(digest)
            assert found == (digest.upper() if digest in sizes else None)
            num_hits += operation == "get" and digest in sizes
            if digest in sizes:
                sizes.move_to_end(digest)
        stats = tier.stats()
        assert (stats.held_bytes, stats.num_hits) == (sum(sizes.values()), num_hits)
        assert stats.held_bytes <= stats.budget_bytes == BUDGET_BYTES


def test_without_a_budget_it_holds_nothing() -> None:
    tier: HostTier[str] = HostTier(0)
    tier.put("a", "A", 1)
    assert tier.get("a") is None
    assert tier.stats().num_hits == 0
