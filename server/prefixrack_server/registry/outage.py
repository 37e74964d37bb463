"""The outage: what is known of a database that does not answer. Knows no SQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prefixrack.errors import RegistryUnavailable

# After a failure nobody tries for so long: else every request would wait for a connection in vain, and they would pile
# up.
PAUSE_S: Final = 0.25


class Outage:
    """Process life, one for each database."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._ends_at = 0.0
        self.is_on = False

    def check(self) -> None:
        """Raises RegistryUnavailable within the pause after a failure."""
        if self.is_on and self._timer() < self._ends_at:
            raise unavailable()

    def begin(self) -> RegistryUnavailable:
        """Note a failure, and return what to raise."""
        self.is_on, self._ends_at = True, self._timer() + PAUSE_S
        return unavailable()

    def end(self) -> None:
        self.is_on = False


def unavailable() -> RegistryUnavailable:
    return RegistryUnavailable(
        "the registry's database does not answer: nothing was acknowledged, send it again in a moment (with the same "
        "Idempotency-Key where it is an upload)",
        retry_after_s=1,
    )
