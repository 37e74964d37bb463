"""Work on a GPU recorded once and replayed, so that what is timed is the device and not the launches. Knows tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Recorded:
    """`work` computes the same addresses each time; what it makes anew lives as long as this."""

    def __init__(self, work: Callable[[], object]) -> None:
        work()  # the first call chooses algorithms, which a recording may not
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            work()

    def replay(self) -> None:
        """Begins it; the caller synchronises."""
        self._graph.replay()
