"""The commands that the tests do not run, and why: they are read by their own parser and go no further.

`docker` is a program; the others are scripts of benchmarks/, or one of them with an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DAEMON: Final = "needs a Docker daemon: files, ports and volumes are looked up, and deploy/test_container.py lints them"
CUDA: Final = "needs a CUDA device"
BOUNDS: Final = "fails where a bound in seconds is missed, and says nothing where others use the machine"

UNRUN: Final[Mapping[str, str]] = {
    "docker": DAEMON,
    "bench.py": "installs the peers and takes a quarter of an hour; benchmarks/test_bench.py",
    "chaos.py": f"{BOUNDS}; server/test_replicas.py and server/test_rolling_restart.py",
    "gpu.py": CUDA,
    "overload.py": f"{BOUNDS}; server/test_overload.py",
    "quality.py cuda": CUDA,
    "throughput.py --memory": "writes 1,000 adapters and measures for a minute",
}
