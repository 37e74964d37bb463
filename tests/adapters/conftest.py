from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_backbone

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.spec import BackboneSpec


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def backbone(backbone_folder: Path) -> Backbone:
    return Backbone.load(backbone_folder, device="cpu")


@pytest.fixture(scope="session")
def spec(backbone: Backbone) -> BackboneSpec:
    return backbone.spec
