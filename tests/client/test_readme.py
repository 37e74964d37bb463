"""The client's README: its examples name adapters that the demo serves."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "client" / "README.md").read_text(encoding="utf-8")
OF_THE_TINY_SERVER = {"sentiment"}
SERVED = {"cause", "emotions", "intent", "ner", "nli", "qa"}


def test_examples_name_adapters_that_exist() -> None:
    named = re.findall(r'client\.\w+\("([a-z0-9-]+)', README) + re.findall(r"prefixrack predict (\S+)", README)
    assert {"intent", "qa", "cause"} <= set(named) <= SERVED | OF_THE_TINY_SERVER
