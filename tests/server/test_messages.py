"""What front end and engine say to each other survives pickling: the engine may live in a process of its own."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from prefixrack_adapters.rows import Row
from prefixrack_server import messages
from prefixrack_server.messages import BundleRef, EngineStats, RowDone, RowFailure, RowWork

ROW = Row((101, 7, 102), (0, 0, 0), 4)
BUNDLE = BundleRef("d" * 64, "a" * 64, "b" * 64)
MESSAGES: tuple[Any, ...] = (
    ROW,
    BUNDLE,
    RowWork(7, ROW, BUNDLE, deadline=12.5, priority=2),
    RowWork(8, ROW, None),
    RowFailure("nonfinite_output", "the output is not finite"),
    RowDone(7, failure=RowFailure("not_ready", "stopping"), queue_ms=1.5),
    EngineStats(True, 1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: Any) -> None:
    assert pickle.loads(pickle.dumps(message)) == message


def test_round_trip_of_logits() -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    copy = pickle.loads(pickle.dumps(RowDone(7, logits, None, 0.5, 1.5)))
    assert (copy.row_id, copy.failure, copy.queue_ms, copy.compute_ms) == (7, None, 0.5, 1.5)
    assert copy.logits.dtype == np.float32
    np.testing.assert_array_equal(copy.logits, logits)


def test_every_message_is_among_them() -> None:
    defined = {
        kind
        for _, kind in inspect.getmembers(messages, inspect.isclass)
        if kind.__module__ == messages.__name__ and (dataclasses.is_dataclass(kind) or issubclass(kind, tuple))
    }
    assert defined == {type(message) for message in MESSAGES} - {Row}
