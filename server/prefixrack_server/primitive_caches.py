"""oneDNN's caches of compiled matrix multiplications: how many are kept. Knows two environment variables.

A product is compiled for every number of tokens of a pack, and for each of a layer's four weights; what is kept of one
number of tokens takes about 5 MB. Packs are filled up to few such numbers (`prefixrack_adapters/filler.py`), which are
some hundred all the same. Left alone, oneDNN and ideep (torch's layer above it) keep 1,024 entries each: under load
with packs of many sizes, before they were filled up, a server of MiniLM grew from 0.8 to 2 GB.
"""

from __future__ import annotations

import os

# Read when the first product is computed. ONEDNN_PRIMITIVE_CACHE_CAPACITY is oneDNN's (its developer guide, "Primitive
# Cache"), LRU_CACHE_CAPACITY ideep's, whose entries keep oneDNN's alive.
VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# oneDNN holds two entries for a product: these are the products of 16 numbers of tokens. Over HTTP with 32 callers 128,
# 192 and 256 entries are about equally fast.
NUM_ENTRIES = 128


def bound_primitive_caches() -> None:
    """Keep fewer of them, unless the environment says how many. Before the first product: later it changes nothing."""
    for variable in VARIABLES:
        os.environ.setdefault(variable, str(NUM_ENTRIES))
