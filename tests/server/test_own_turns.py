"""Jobs that a thread does between others of its own."""

from __future__ import annotations

from prefixrack_server.own_turns import OwnTurns


def test_jobs_wait_for_their_turn_and_come_in_order() -> None:
    wakes: list[int] = []
    turns = OwnTurns(lambda: wakes.append(len(turns)))
    futures = [turns.submit(divmod, number, 2) for number in (7, 8)]
    assert wakes == [1, 2]  # each job is there when the thread wakes
    assert not any(future.done() for future in futures)
    turns.run_next()
    assert futures[0].result(timeout=0) == (3, 1)
    assert not futures[1].done()
    turns.run_next()
    assert futures[1].result(timeout=0) == (4, 0)
    assert not turns


def test_what_a_job_raises_is_its_result() -> None:
    turns = OwnTurns(lambda: None)
    future = turns.submit(divmod, 1, 0)
    turns.run_next()
    assert isinstance(future.exception(timeout=0), ZeroDivisionError)


def test_jobs_that_wait_when_it_is_shut_down_are_cancelled() -> None:
    turns = OwnTurns(lambda: None)
    future = turns.submit(divmod, 1, 1)
    turns.shutdown(wait=False, cancel_futures=True)
    assert future.cancelled()
    assert not turns
