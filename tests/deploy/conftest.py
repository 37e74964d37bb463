from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings of this server."""
    for name in [name for name in os.environ if name.startswith("PREFIXRACK_")]:
        monkeypatch.delenv(name)
    return monkeypatch
