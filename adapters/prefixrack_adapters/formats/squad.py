"""Questions in SQuAD's rows, 1.1 and 2.0: their ids, titles and gold answers may come along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.fields import Anything, Field

UNREAD = tuple(Field(name, Anything(), is_optional=True) for name in ("id", "title", "answers", "is_impossible"))
FIELDS = (Field("question"), Field("context"), *UNREAD)
EXAMPLE = {"question": "Where was Ada born?", "context": "Ada Lovelace was born in London in 1815."}


def drop_the_rest(fields: Mapping[str, Any]) -> Any:
    return {"question": fields["question"], "context": fields["context"]}


SQUAD = Format("squad", "question-answering", FIELDS, drop_the_rest, EXAMPLE)
