from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask, build_task
from prefixrack_adapters.training.settings import TrainSettings
from synthetic import MakeSettings, settings_of
from tiny import MakeTask, make_manifest, write_backbone


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def backbone(backbone_folder: Path) -> Backbone:
    return Backbone.load(backbone_folder, device="cpu")


@pytest.fixture(scope="session")
def spec(backbone: Backbone) -> BackboneSpec:
    return backbone.spec


@pytest.fixture(scope="session")
def make_task(backbone: Backbone) -> MakeTask:
    """A task on the tiny backbone; the options are those of `make_manifest`."""

    def make(**options: Any) -> AnyTask:
        return build_task(make_manifest(backbone.spec, **options), backbone.spec, backbone.tokenizer)

    return make


@pytest.fixture
def make_settings(backbone_folder: Path, tmp_path: Path) -> MakeSettings:
    """Settings of a quick run on the tiny backbone; arguments are those of `settings_of`."""

    def make(*data: Any, **options: Any) -> TrainSettings:
        return settings_of(tmp_path, options.pop("backbone", backbone_folder), *data, **options)

    return make
