"""The page on scaling: its table of sizes is what the server reckons with."""

from __future__ import annotations

import re

import pytest

from docs_site import ROOT
from prefixrack_adapters.manifest import (
    BackboneRef,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.loader import device_bytes

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| [\w-]+, (\d+) × (\d+) \| (\d+) \| ([\d.]+) \| ([\d,]+) \|$", PAGE, flags=re.MULTILINE)
BFLOAT16 = 2
HEAD_DIM = 64


def size_of(num_layers: int, hidden_size: int, prefix_len: int) -> int:
    manifest = Manifest(
        name="sized",
        task="text-classification",
        labels=["no", "yes"],
        backbone=BackboneRef(model_id="any", architecture="bert", fingerprint="0" * 64),
        prefix=PrefixSpec(
            prefix_len=prefix_len, num_layers=num_layers, num_kv_heads=hidden_size // HEAD_DIM, head_dim=HEAD_DIM
        ),
        head=HeadSpec(gather="first_token", layers=[DenseLayer(num_outputs=2)]),
        tokenization=TokenizationSpec(max_len=128),
        provenance=Provenance(tool="test", tool_version="0", method="none"),
    )
    return device_bytes(manifest, hidden_size, BFLOAT16)


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_a_size_is_what_the_server_reckons_with(row: tuple[str, ...]) -> None:
    num_layers, hidden_size, prefix_len = map(int, row[:3])
    size_bytes = size_of(num_layers, hidden_size, prefix_len)
    assert row[3] == f"{size_bytes / 2**20:.2f}"
    assert row[4] == f"{EngineConfig().resident_bytes // size_bytes:,}"


def test_the_table_is_there() -> None:
    assert len(ROWS) == 9
