"""What an adapter may be called."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
NAME_RULE: Final = "1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"a name is {NAME_RULE}")
    return name


AdapterName = Annotated[
    str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})
]
