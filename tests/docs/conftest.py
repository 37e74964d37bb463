"""The site, built once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs_site import ROOT, build_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build_site(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stderr
    return out
