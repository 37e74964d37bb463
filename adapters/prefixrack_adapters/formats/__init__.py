"""Input formats: `input_format` of a manifest, by name. Pure functions; know no tokens, no adapters and no torch."""

from __future__ import annotations

from collections.abc import Mapping

from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.candidates import Candidates
from prefixrack_adapters.formats.copa import COPA
from prefixrack_adapters.formats.multirc import MULTIRC
from prefixrack_adapters.formats.pairs import PAIRS
from prefixrack_adapters.formats.record import RECORD
from prefixrack_adapters.formats.squad import SQUAD
from prefixrack_adapters.formats.srl import SRL, WordsWithTail
from prefixrack_adapters.formats.wic import WIC
from prefixrack_adapters.formats.wsc import WSC

PLAIN = "plain"  # every task's own fields, and no format
FORMATS: Mapping[str, Format] = {one.name: one for one in (*PAIRS, *WIC, *WSC, MULTIRC, RECORD, COPA, SRL, SQUAD)}

__all__ = ["FORMATS", "PLAIN", "Candidates", "Format", "WordsWithTail"]
