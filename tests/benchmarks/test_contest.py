"""How the peers of a contest are started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import contest

NAMES = ("stock", "peft", "adapterhub")


@pytest.mark.parametrize("together", [True, False])
def test_peers_start_together_only_where_none_of_them_times_anything(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together, each waits until all are there; one after the other, none may find another starting."""
    all_there, starting, ended = threading.Barrier(len(NAMES)), threading.Lock(), []

    @contextmanager
    def running(name: str, folder: Path, threads: int) -> Iterator[str]:
        if together:
            all_there.wait(60)
        else:
            assert starting.acquire(blocking=False)
            time.sleep(0.05)  # long enough for another to be found, were it started meanwhile
            starting.release()
        yield f"{name} in {folder} with {threads}"
        ended.append(name)

    monkeypatch.setattr(contest, "running", running)
    with ExitStack() as stack:
        peers: Mapping[str, object] = contest.started(NAMES, Path("work"), 2, stack, together=together)
        assert peers == {name: f"{name} in work with 2" for name in NAMES}
        assert not ended
    assert sorted(ended) == sorted(NAMES)


def test_a_peer_that_does_not_start_ends_the_run_and_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    @contextmanager
    def running(name: str, folder: Path, threads: int) -> Iterator[str]:
        if name == "peft":
            raise SystemExit("the peer peft ended")
        try:
            yield name
        finally:
            ended.append(name)

    monkeypatch.setattr(contest, "running", running)
    with pytest.raises(SystemExit, match="peft ended"), ExitStack() as stack:
        contest.started(NAMES, Path("work"), 2, stack, together=True)
    assert "stock" in ended
