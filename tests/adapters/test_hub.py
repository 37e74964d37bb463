"""Backbones by hub id: from the cache without a network, nothing fetched in vain, and refusals that say what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.embedded import resolve_backbone
from prefixrack_adapters.spec import BackboneSpec

HUB_ID = "some-owner/some-name"
REVISION = "0123456789abcdef0123456789abcdef01234567"
EXTRAS = ("model.onnx", "flax_model.msgpack", "model.fp16.safetensors", "onnx/model.safetensors", "training_args.bin")


def cached(cache: Path, source: Path | None = None) -> Path:
    """A snapshot folder as the hub's client lays it out, with the files of `source`."""
    repository = cache / "models--some-owner--some-name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    folder = repository / "snapshots" / REVISION
    if source is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(source, folder)
    return folder


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def remote(backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What lies on a pretended hub; only what the patterns allow comes from it."""
    there = tmp_path / "remote"
    shutil.copytree(backbone_folder, there)
    here = cached(tmp_path / "hub")

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        assert hub_id == HUB_ID
        names = [str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()]
        for name in names:
            if not any(fnmatch(name, pattern) for pattern in allow_patterns):  # the client's own rule
                continue
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there / name, here / name)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return there


def test_a_cached_backbone_needs_no_network(offline_cache: Path, backbone_folder: Path) -> None:
    folder = cached(offline_cache, backbone_folder)
    assert resolve_backbone(HUB_ID) == folder
    backbone = Backbone.load(HUB_ID, "cpu")
    assert backbone.spec.fingerprint == BackboneSpec.load(backbone_folder).fingerprint
    assert backbone.spec.model_id == HUB_ID


def test_offline_without_the_backbone_says_how_to_get_it(offline_cache: Path) -> None:
    with pytest.raises(UnsupportedBackbone, match=rf"{HUB_ID}.*HF_HUB_OFFLINE is set.*hf download {HUB_ID}.*folder"):
        resolve_backbone(HUB_ID)
    assert not offline_cache.exists()


def test_offline_with_half_a_backbone_says_what_is_missing(offline_cache: Path, backbone_folder: Path) -> None:
    shutil.copy(backbone_folder / "config.json", cached(offline_cache))
    with pytest.raises(UnsupportedBackbone, match=r"without weights: one of model.safetensors.*HF_HUB_OFFLINE is set"):
        resolve_backbone(HUB_ID)


def test_the_server_honours_the_environment(tmp_path: Path) -> None:
    """Refused before torch loads: with HF_HUB_OFFLINE set nobody is asked."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = "from prefixrack.cli.app import main; main()"
    options = ("serve", "--backbone", HUB_ID, "--port", "0", "--state-dir", str(tmp_path / "state"))
    done = subprocess.run(
        [sys.executable, "-c", command, *options], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert f"hf download {HUB_ID}" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_more_than_needed_is_fetched(remote: Path) -> None:
    for name in (*EXTRAS, "pytorch_model.bin"):
        (remote / name).parent.mkdir(exist_ok=True)
        (remote / name).write_bytes(b"in another form")
    folder = resolve_backbone(HUB_ID)
    fetched = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= fetched
    assert not fetched & {Path(name).name for name in EXTRAS if name != "onnx/model.safetensors"}
    assert not (folder / "onnx").exists()
    assert "pytorch_model.bin" not in fetched
    assert Backbone.load(folder, "cpu").spec.model_id == HUB_ID


def test_pickled_weights_are_fetched_where_there_are_no_others(remote: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(remote / "model.safetensors"), remote / "pytorch_model.bin")
    wanted = BackboneSpec.load(remote).fingerprint
    (remote / "model.safetensors").unlink()
    assert BackboneSpec.load(resolve_backbone(HUB_ID)).fingerprint == wanted


def test_of_an_unsupported_family_only_the_config_is_fetched(remote: Path, tmp_path: Path) -> None:
    (remote / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UnsupportedBackbone, match=r"'t5' backbone; supported families: albert, bert"):
        resolve_backbone(HUB_ID)
    fetched = [path.name for path in (tmp_path / "hub").rglob("snapshots/*/*")]
    assert fetched == ["config.json"]


def test_a_backbone_without_weights_is_refused(remote: Path) -> None:
    (remote / "model.safetensors").unlink()
    with pytest.raises(UnsupportedBackbone, match=r"without weights: one of model\.safetensors.* is needed on the hub"):
        resolve_backbone(HUB_ID)


def wrapped(cause: Exception) -> Exception:
    """As the hub's client hands on what it met while it looked whether the cache would do."""
    error = FileNotFoundError("cannot find it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("make_error", "advice"),
    [
        (lambda: RepositoryNotFoundError.__new__(RepositoryNotFoundError), r"not on the hub, or is private.*HF_TOKEN"),
        (lambda: wrapped(RepositoryNotFoundError.__new__(RepositoryNotFoundError)), r"not on the hub, or is private"),
        (lambda: GatedRepoError.__new__(GatedRepoError), r"gated: accept its terms"),
        (lambda: wrapped(TimeoutError("slow")), r"cannot be fetched from the hub \(TimeoutError\): check the network"),
        (lambda: RuntimeError("proxy"), r"cannot be fetched from the hub \(RuntimeError\)"),
    ],
    ids=["not-found", "not-found-and-not-cached", "gated", "no-network", "http-library"],
)
def test_what_the_hub_refuses_comes_with_advice(
    make_error: Callable[[], Exception], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hub_id: str, allow_patterns: list[str]) -> str:
        raise make_error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UnsupportedBackbone, match=rf"backbone '{HUB_ID}' .*{advice}.*; or give a backbone's folder"):
        resolve_backbone(HUB_ID)


def test_what_is_no_hub_id_is_refused_without_asking(offline_cache: Path) -> None:
    with pytest.raises(UnsupportedBackbone, match=r"'some owner/name' is no hub id: one reads owner/name"):
        resolve_backbone("some owner/name")
    for name in ("./missing/folder", "/missing/folder", "~/missing/folder", "name", "a/b/c"):
        with pytest.raises(UnsupportedBackbone, match="is no folder; give a backbone's folder, a hub id"):
            resolve_backbone(name)
