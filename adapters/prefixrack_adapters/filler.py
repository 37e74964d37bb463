"""A row that nobody asked for: it fills a pack up, so that packs have few numbers of tokens. Knows rows, no tensors.

Some kernels are compiled for the number of tokens they are called with, which takes them as long as computing a tenth
or a quarter of the pack; compiled ones are kept, but not of every number that there is.
"""

from __future__ import annotations

from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec

FINEST = 8  # tokens between two sizes of small packs
SIZES_PER_OCTAVE = 32  # of others: at most one token in 32 is a filler's


def filled_up(num_tokens: int) -> int:
    """The next size: multiples of 8 up to 512, of 16 up to 1,024, of 32 up to 2,048 and so on."""
    step = max(FINEST, (1 << num_tokens.bit_length() - 1) // SIZES_PER_OCTAVE)
    return -(-num_tokens // step) * step


def filler_for(num_tokens: int, spec: BackboneSpec) -> Row | None:
    """None where nothing is missing, or where a row cannot be so long."""
    num_missing = filled_up(num_tokens) - num_tokens
    if not 0 < num_missing <= spec.max_tokens(spec.base_position):
        return None
    return Row((0,) * num_missing, (0,) * num_missing, spec.base_position)
