from __future__ import annotations

import json
import logging

import pytest

from prefixrack_server.logs import set_up_logging


@pytest.fixture
def root() -> logging.Logger:
    return logging.getLogger()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_in_a_file_is_plain(
    root: logging.Logger, log_format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colours are for terminals."""
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    set_up_logging("info", log_format)
    logging.getLogger("other").warning("seen %s", 7)
    line = capsys.readouterr().err
    assert "\x1b" not in line
    assert "seen 7" in line
    if log_format == "json":
        assert json.loads(line)["level"] == "warning"
