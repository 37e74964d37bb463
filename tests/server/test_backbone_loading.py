"""Threads of a server that starts: as many as are set, or what its first packs say."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefixrack_server import backbone_loading
from prefixrack_server.config import ServerConfig
from tiny import write_backbone


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a server sets for its whole process is not set for those who test beside it."""
    monkeypatch.setattr(backbone_loading, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(backbone_loading, "bound_primitive_caches", lambda: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _seconds: None)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def num_threads_of(folder: Path, **engine: Any) -> int | None:
    config = ServerConfig(backbone={"path": str(folder), "device": "cpu"}, engine=engine)
    return backbone_loading.load_backbone(config, folder).config.engine.num_threads


def test_threads_that_are_set_are_taken_and_nothing_is_tried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefixrack_server.compute_threads"):
        assert num_threads_of(write_backbone(tmp_path), num_threads=3) == 3
    assert not caplog.records


def test_without_a_setting_they_are_what_the_first_packs_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    with caplog.at_level(logging.INFO, "prefixrack_server.compute_threads"):
        chosen = num_threads_of(write_backbone(tmp_path))
    assert f"{chosen} of 4 compute" in caplog.text
