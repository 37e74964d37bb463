from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from prefixrack_server.primitive_caches import NUM_ENTRIES, VARIABLES, bound_primitive_caches

GROWTH = """
import sys, psutil, torch
from prefixrack_server.primitive_caches import bound_primitive_caches
if sys.argv[1] == "bound":
    bound_primitive_caches()
weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(64, 64))
states, process = torch.ones(1024, 64), psutil.Process()
def multiply(num_tokens):
    torch.ops.mkldnn._linear_pointwise(states[:num_tokens], weight, None, "none", [], "")
for num_tokens in range(1, 1025):
    if num_tokens == 512:
        before = process.memory_info().rss
    multiply(num_tokens)
print(process.memory_info().rss - before)
"""


def growth_bytes(mode: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return int(subprocess.check_output([sys.executable, "-c", GROWTH, mode], text=True, env=environment))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_packs_of_many_sizes_take_bounded_memory() -> None:
    """What half a thousand sizes more take, once the caches are full."""
    assert growth_bytes("bound") < 0.5 * growth_bytes("default")


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(VARIABLES[0], "7")

    bound_primitive_caches()

    assert [os.environ[variable] for variable in VARIABLES] == ["7", str(NUM_ENTRIES)]
