"""Metrics read back: what the server's own library writes, rates that survive a restart, percentiles in buckets."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from prefixrack.exposition import Interval, Scrape


def scrape(registry: CollectorRegistry, at_s: float) -> Scrape:
    return Scrape.parse(generate_latest(registry).decode(), at_s)


def test_labels_come_back_as_they_were() -> None:
    registry = CollectorRegistry()
    counter = Counter("prefixrack_x", "help", ("name",), registry=registry)
    names = ['a"b', "back\\slash", "two\nlines", 'curly},{="', "é 東京", "\u2028 \x85"]
    for name in names:
        counter.labels(name).inc(2)
    found = scrape(registry, 0.0)
    assert found.label_values("prefixrack_x_total", "name") == [(name,) for name in names]
    assert found.sum("prefixrack_x_total", name='a"b') == 2
    assert found.sum("prefixrack_x_total") == 2 * len(names)
    assert found.sum("nothing") == 0
    assert found.labels("nothing") == {}


def test_rates_are_per_second_and_survive_a_restart() -> None:
    first, second = Scrape.parse("x_total 10\n", 1.0), Scrape.parse("# HELP x\nx_total 30\n", 3.0)
    assert Interval(first, second).rate("x_total") == 10
    assert Interval(second, Scrape.parse("x_total 4 1700000000\n", 5.0)).rate("x_total") == 2


def test_percentiles_are_those_of_the_new_values() -> None:
    registry = CollectorRegistry()
    clock = Histogram("t", "help", ("who",), buckets=(0.1, 0.2, 1.0), registry=registry)
    clock.labels("a").observe(0.9)
    before = scrape(registry, 0.0)
    for value in (*[0.05] * 50, *[0.15] * 40, *[0.5] * 9):
        clock.labels("a").observe(value)
    clock.labels("b").observe(7)
    seen = Interval(before, scrape(registry, 10.0))
    assert seen.percentile("t", 0.5) == pytest.approx(0.1)
    assert seen.percentile("t", 0.9) == pytest.approx(0.2)
    assert 0.2 < (seen.percentile("t", 0.95) or 0) < 1.0
    assert seen.percentile("t", 1.0) == 1.0  # the last bucket has no upper end
    assert seen.percentile("t", 0.5, who="b") == 1.0
    assert seen.percentile("t", 0.5, who="c") is None
    assert seen.mean("t", who="a") == pytest.approx((50 * 0.05 + 40 * 0.15 + 9 * 0.5) / 99)
    assert seen.mean("nothing") is None
