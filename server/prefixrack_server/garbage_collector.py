"""Python's collector of cycles: what a server has once it is ready stays, and need not be looked at again."""

from __future__ import annotations

import gc
from typing import Final

# New objects between two looks at the youngest, such looks between two at those that outlived one, and such between two
# at all. By default that is 700, 10 and 10: where thousands of requests wait, all are looked at every few seconds,
# and each time the event loop stands still for a tenth of a second.
THRESHOLDS: Final = (2_000, 10, 100)


def settle() -> None:
    """Take all live objects out of later collections, which otherwise walk those of all imported libraries, and look
    through all the others seldom: what a request leaves behind in cycles is young."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
