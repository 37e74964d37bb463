"""`tensorboard`: the real one, on a free port."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from docs_commands.foreground import on_a_free_port, serve

TENSORBOARD = (sys.executable, "-W", "ignore", "-m", "tensorboard.main")


def run(arguments: Sequence[str]) -> int:
    words, port = on_a_free_port(arguments)
    return serve([*TENSORBOARD, *words], port, "/data/runs")
