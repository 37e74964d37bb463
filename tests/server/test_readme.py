"""The table of bad input in the server's README: its codes have these statuses, and its tests are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefixrack.errors import fault_classes
from prefixrack_server.problems import status_of

TESTS = Path(__file__).parents[1]
README = TESTS.parent / "server" / "README.md"
SECTION = README.read_text(encoding="utf-8").partition("## Bad input")[2].partition("\n## ")[0]
ROWS = [line for line in SECTION.splitlines() if line.startswith("|")][2:]
STATUSES = {kind.code: status_of(kind) for kind in fault_classes()}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_is_so(row: str) -> None:
    _, answer, tests = row.strip("|").split(" | ")
    for status, code in re.findall(r"(?:(\d{3}) )?`(\w+)`", answer):
        assert code in STATUSES
        assert not status or STATUSES[code] == int(status)
    named = re.findall(r"`(\S+)::(\w+)`", tests)
    assert named
    for file, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_the_table_is_there() -> None:
    assert len(ROWS) > 20
