"""What the compiler makes of the attention kernel, for a GPU that need not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from interpreted_kernels import kernels_or_skip

kernels_or_skip()

# In a process of its own: in this one the kernels may be interpreted, which Triton decides for good as it is imported.
COMPILE = r"""
import json, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from prefixrack_adapters.gpu import kernels

constants, types, multiples = json.loads(sys.argv[1])
names = kernels.attend.arg_names
source = ASTSource(
    kernels.attend,
    {name: "constexpr" if name in constants else types[name] for name in names},
    {(names.index(name),): value for name, value in constants.items()},
    {(names.index(name),): [["tt.divisibility", 16]] for name in multiples},
)
hopper = GPUTarget("cuda", 90, 32)
code = triton.compile(source, target=hopper, options={"num_warps": 1, "num_stages": 3}).asm["ptx"]
counts = [len(re.findall(pattern, code)) for pattern in (r"ld\.global\S*\.b16 ", r"cp\.async\.cg")]
print(json.dumps(counts))
"""
CONSTANTS = {
    "NUM_HEADS": 16,
    "GROUP": 1,
    "HEAD_DIM": 64,
    "PADDED_DIM": 64,
    "BLOCK_QUERIES": 16,
    "BLOCK_KEYS": 16,
    "IS_CAUSAL": False,
    "HAS_WINDOW": False,
    "HAS_CONTEXT": False,
    "HAS_TO_ALL": False,
    "HAS_FROM_ALL": False,
    "PRECISION": "tf32",
}
VALUES = ("query", "key", "value", "out", "to_all", "from_all")
TABLES = (
    *("key_addresses", "value_addresses", "prefix_lens", "starts", "context_lens", "item_rows", "item_firsts"),
    "distance_places",
)
SIZES = ("query_stride", "key_stride", "window", "num_tokens", "num_distances", "longest_row")


def reads(unit: int) -> tuple[int, int]:
    """How often the code reads one value of 16 bits, and how often a vector ahead of its use."""
    types = dict.fromkeys(VALUES, "*bf16") | dict.fromkeys(TABLES, "*i64") | dict.fromkeys(SIZES, "i32")
    multiples = [*VALUES, "query_stride", "key_stride"]
    arguments = json.dumps([CONSTANTS | {"UNIT": unit}, types | {"scale": "fp32"}, multiples])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    value_by_value, ahead = json.loads(done.stdout)
    return value_by_value, ahead


def test_keys_and_values_are_read_in_whole_vectors_ahead_of_their_use() -> None:
    """What is said of addresses must reach the loads: read value by value, a long prefix took twice as long."""
    value_by_value, ahead = reads(unit=8)
    assert not value_by_value
    assert ahead


def test_addresses_that_are_no_multiples_are_not_taken_for_such() -> None:
    value_by_value, ahead = reads(unit=1)
    assert value_by_value
    assert not ahead
