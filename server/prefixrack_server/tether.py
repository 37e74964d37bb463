"""The tether: what ties a child process to the supervisor that started it. Runs in the child.

Orders come on standard input, each a byte: the number of a signal that the server got. Reports, JSON lines, go to what
was standard output. When the supervisor is gone, however that came, so is the child.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from prefixrack.errors import UnsupportedBackbone
from prefixrack_server.config import ConfigError

EXIT_ORPHANED: Final = 3
STDIN, STDOUT, STDERR = range(3)

Obey = Callable[[signal.Signals], object]


class Job(Protocol):
    """What a child is started for: plain picklable data that knows what to do."""

    def run(self, tether: Tether) -> None:
        """Returns when it has ended in order. Raises ConfigError or UnsupportedBackbone where it cannot start."""


class Tether:
    """Lives as long as the child."""

    def __init__(self) -> None:
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, signal.SIG_IGN)  # some send them to every process of a service: orders count alone
        self._reports = os.fdopen(os.dup(STDOUT), "w", encoding="ascii")
        os.dup2(STDERR, STDOUT)  # what a library prints is no report
        self._obey: Obey | None = None
        threading.Thread(target=self._listen, name="prefixrack-tether", daemon=True).start()

    def ready(self, obey: Obey, **facts: Any) -> None:
        """Tell the supervisor that the work has begun; from now on its orders come, to `obey` in a thread."""
        self._obey = obey
        self._report(ready=facts)

    def refuse(self, reason: str) -> None:
        self._report(refused=reason)

    def _report(self, **fields: Any) -> None:
        print(json.dumps(fields), file=self._reports, flush=True)

    def _listen(self) -> None:
        while order := os.read(STDIN, 1):
            assert self._obey is not None, "orders come after the report of being ready"
            self._obey(signal.Signals(order[0]))
        os._exit(EXIT_ORPHANED)


def main() -> None:
    """A child's main program: do the job in the file that the command line names."""
    tether = Tether()
    path = Path(sys.argv[1])
    job: Job = pickle.loads(path.read_bytes())
    path.unlink()  # it may hold the database's password
    try:
        job.run(tether)
    except (ConfigError, UnsupportedBackbone) as error:
        tether.refuse(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
