"""Cloze questions over news: every entity is put into the query's gap, and the best one is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack.errors import InvalidInput
from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.candidates import MAX_CANDIDATES, Candidates
from prefixrack_adapters.formats.fields import Field, Texts

GAP = "@placeholder"
HIGHLIGHT, BULLET = "@highlight\n", "- "


def fill_gaps(fields: Mapping[str, Any]) -> Candidates:
    passage, query, entities = fields["passage"].replace(HIGHLIGHT, BULLET), fields["query"], fields["entities"]
    if GAP not in query:
        raise InvalidInput(f"query has no {GAP}: put it where the entity belongs")
    return Candidates(entities, tuple({"text": passage, "text_pair": query.replace(GAP, one)} for one in entities))


RECORD = Format(
    "record",
    "text-classification",
    (Field("passage"), Field("query"), Field("entities", Texts(1, MAX_CANDIDATES))),
    fill_gaps,
    {"passage": "Oslo voted.\n@highlight\nBergen waits", "query": f"{GAP} is waiting.", "entities": ["Oslo", "Bergen"]},
    is_single_label=True,
    min_labels=2,  # ranked by the second output
)
