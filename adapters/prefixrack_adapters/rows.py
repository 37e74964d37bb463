"""A row: one token sequence for one adapter version, the unit that the engine computes. Plain data, no tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One unpadded sequence, special tokens included.

    `first_position` is the position id of the first token: it depends on the tool that trained the adapter
    (P-Tuning v2 counts the prefix, AdapterHub does not), so it belongs to the row, not to the backbone.

    Two things are for GLM (2021) alone: `position_ids` has its two dimensions in place of counting from
    `first_position`, and the first `context_len` tokens see each other while the later ones see what is before them.
    Inside a pack a row may have one dimension of `position_ids` (`packing.with_positions`).
    """

    token_ids: tuple[int, ...]
    segment_ids: tuple[int, ...]
    first_position: int
    position_ids: tuple[tuple[int, ...], ...] = ()
    context_len: int | None = None

    def __len__(self) -> int:
        return len(self.token_ids)
