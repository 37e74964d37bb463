"""The page on the architecture: its files are there, and its rules are those that import-linter checks."""

from __future__ import annotations

import re
import tomllib

from docs_site import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_files_are_there() -> None:
    named = re.findall(r"`(\w+\.py)`", PAGE)
    assert {"tokenise.py", "scheduler.py", "engine.py"} <= set(named)
    assert [name for name in named if not (ROOT / "server" / "prefixrack_server" / name).is_file()] == []


def test_the_rules_are_the_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert re.findall(r"^\* (.+)$", PAGE, flags=re.MULTILINE) == [contract["name"] for contract in contracts]
