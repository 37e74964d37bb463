"""How much memory loading a backbone takes, in a process of its own. Knows no test framework.

`python load_process.py WARM_UP_FOLDER FOLDER DTYPE [FOLDER DTYPE …]` prints one JSON object per load: `size_bytes`, of
the parameters, and `peak_bytes`, the most that the process grew by while it loaded them and read each of them once.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import torch

from prefixrack_adapters.devices import DTYPES
from prefixrack_adapters.families import load_family
from prefixrack_adapters.spec import BackboneSpec

STATUS = Path("/proc/self/status")


def memory_bytes(field: str) -> int:
    """VmRSS is what the process holds, VmHWM the most that it ever held: mapped pages that were touched count."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def load(folder: Path, dtype: str) -> int:
    """Load and read each parameter once; returns their bytes."""
    spec = BackboneSpec.load(folder)
    family = load_family(folder, spec.architecture, DTYPES[dtype])
    parameters = [parameter.detach() for parameter in family.model.parameters()]
    assert all(parameter.dtype is DTYPES[dtype] for parameter in parameters)
    assert all(math.isfinite(float(parameter.max())) for parameter in parameters)
    return sum(parameter.nbytes for parameter in parameters)


def in_a_fork(warm_up: Path, folder: Path, dtype: str) -> None:
    """A child's peak is its own, and it leaves nothing behind for the next one.

    It loads the small backbone once more first: pages of libraries come back into a child only as they are touched.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status == 0, f"loading {folder} in {dtype} ended with {status}"
        return
    load(warm_up, dtype)
    before = memory_bytes("VmRSS")
    size_bytes = load(folder, dtype)
    print(json.dumps({"size_bytes": size_bytes, "peak_bytes": memory_bytes("VmHWM") - before}), flush=True)
    os._exit(0)


def main(warm_up: str, *pairs: str) -> None:
    torch.set_num_threads(1)  # forks must not inherit a pool whose threads they lack
    load(Path(warm_up), "bfloat16")  # what is imported on the way is not the backbone's
    for folder, dtype in zip(pairs[::2], pairs[1::2], strict=True):
        in_a_fork(Path(warm_up), Path(folder), dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
