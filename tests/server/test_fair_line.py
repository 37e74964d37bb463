"""Tenants take turns: in a line, and with jobs for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from prefixrack_server.fair_line import FairBatches, FairJobs, FairLine


def line_of(*keys: str) -> FairLine[str, str]:
    """A key's first letter is its tenant."""
    line: FairLine[str, str] = FairLine()
    for key in keys:
        line.add(key[0], key, key)
    return line


def served(line: FairLine[str, str]) -> list[str]:
    keys = []
    while line:
        keys.append(line.first())
        line.serve(keys[-1])
    return keys


def test_each_tenant_in_turn_and_its_own_by_arrival() -> None:
    assert served(line_of("a1", "a2", "a3", "b1", "b2", "c1")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_is_first_stays_first_whoever_comes() -> None:
    line = line_of("a1", "a2", "b1")
    line.serve("a1")
    assert line.first() == "b1"
    line.add("c", "c1", "c1")
    assert served(line) == ["b1", "a2", "c1"]


def test_what_is_taken_out_otherwise_is_no_turn() -> None:
    line = line_of("a1", "a2", "b1")
    assert line.discard("a1")
    assert not line.discard("a1")
    assert ("a1" in line, "a2" in line, len(line)) == (False, True, 2)
    assert served(line) == ["a2", "b1"]


def test_who_stands_there_already_keeps_its_place() -> None:
    line = line_of("a1", "b1")
    line.add("b", "a1", "another")
    assert served(line) == ["a1", "b1"]


def test_what_is_gone_is_not_served_twice() -> None:
    line = line_of("a1", "a2", "b1")
    line.serve("a1")
    line.serve("a1")
    assert served(line) == ["b1", "a2"]


class Threads(Executor):
    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run_one(self) -> None:
        future, job = self.jobs.pop(0)
        try:
            future.set_result(job())
        except ZeroDivisionError as error:
            future.set_exception(error)


def test_no_more_jobs_are_given_away_than_run_at_once() -> None:
    threads, done = Threads(), []
    jobs = FairJobs(threads, 2, threading.RLock())
    for name in ("a1", "a2", "a3", "a4", "b1"):
        jobs.submit(name[0], lambda name=name: done.append(name))  # type: ignore[misc]
    while threads.jobs:
        assert len(threads.jobs) <= 2
        threads.run_one()
    assert done == ["a1", "a2", "a3", "b1", "a4"]


def test_a_job_that_crashes_is_logged_and_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    threads, done = Threads(), []
    jobs = FairJobs(threads, 1, threading.RLock())
    jobs.submit("a", lambda: 1 // 0)
    jobs.submit("a", lambda: done.append("after"))
    threads.run_one()
    threads.run_one()
    assert "crashed" in caplog.text
    assert done == ["after"]


def test_after_the_end_none_is_started() -> None:
    threads = Threads()
    jobs = FairJobs(threads, 1, threading.RLock())
    for _ in range(2):
        jobs.submit("a", lambda: None)
    jobs.close()
    threads.run_one()
    assert threads.jobs == []


class Batches:
    """Of two items at most, and two threads for all jobs. An item's first letter is its tenant; `bad` ones crash."""

    def __init__(self) -> None:
        self.threads, self.done = Threads(), []  # type: tuple[Threads, list[Sequence[str]]]
        lock = threading.RLock()
        self.jobs = FairJobs(self.threads, 2, lock)
        self.batches: FairBatches[str] = FairBatches(self.jobs, lock, self.run, 2)

    def submit(self, *items: str) -> None:
        for item in items:
            self.batches.submit(item[0], item)

    def run(self, items: Sequence[str]) -> None:
        self.done.append(items)
        assert items != ["bad"] or 1 // 0

    def run_all(self) -> None:
        while self.threads.jobs:
            self.threads.run_one()


def test_what_has_come_is_handled_together_each_tenant_in_turn() -> None:
    batches = Batches()
    batches.submit("a1", "a2", "a3", "b1", "c1")
    batches.run_all()
    assert batches.done == [["a1", "b1"], ["c1", "a2"], ["a3"]]


def test_one_batch_is_under_way_at_a_time() -> None:
    batches = Batches()
    batches.submit("a1", "a2", "a3")
    assert len(batches.threads.jobs) == 1
    batches.threads.run_one()
    assert len(batches.threads.jobs) == 1
    batches.submit("a4")
    batches.run_all()
    assert batches.done == [["a1", "a2"], ["a3", "a4"]]


def test_a_batch_has_a_turn_of_its_own_among_the_jobs() -> None:
    batches = Batches()
    for number in range(5):
        batches.jobs.submit("a", lambda number=number: batches.done.append(f"job {number}"))  # type: ignore[misc]
    batches.submit("a1")
    batches.run_all()
    assert batches.done.index(["a1"]) == 3  # two ran when it came, and one of each tenant goes before it


def test_a_batch_that_crashes_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    batches = Batches()
    batches.submit("bad")
    batches.threads.run_one()
    batches.submit("a1")
    batches.run_all()
    assert "crashed" in caplog.text
    assert batches.done == [["bad"], ["a1"]]


def test_after_the_end_no_batch_is_started() -> None:
    batches = Batches()
    batches.submit("a1", "a2", "a3")
    batches.threads.run_one()
    batches.batches.close()
    batches.run_all()
    assert batches.done == [["a1", "a2"], []]
