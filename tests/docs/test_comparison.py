"""The comparison with others: every line names where it comes from."""

from __future__ import annotations

import re

import pytest

from docs_site import ROOT

PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.endswith("| source |")]


def system_of(row: str) -> str:
    return row.strip("|").split(" | ")[0].strip()


@pytest.mark.parametrize("row", ROWS)
def test_a_line_has_its_source(row: str) -> None:
    _, said, source = row.strip("|").split(" | ")
    assert said.strip()
    if "the pages above" in source:
        earlier = PAGE.partition(row)[0]
        assert all(re.search(rf"^\| {re.escape(name)}\b.*\]\(http", earlier, re.MULTILINE) for name in named(row)), row
    else:
        assert re.search(r"\]\((?:https://|[\w./]+\.md)", source), row


def named(row: str) -> list[str]:
    return [name.strip() for name in system_of(row).split(",")]


def test_the_tables_are_there() -> None:
    assert len(ROWS) > 20
