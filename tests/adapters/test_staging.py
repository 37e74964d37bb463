"""What is not finished: files appear whole or not at all, a full disk is told as such, and the old bundle stays."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_callback import TrainerState

from prefixrack.errors import DiskFull, InvalidRequest
from prefixrack_adapters.bundle import bundle_digest, write_bundle
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training import run
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.staging import (
    Workspace,
    fingerprint_of,
    is_disk_full,
    last_checkpoint,
    staged,
    told_if_full,
    whole_checkpoints,
)
from prefixrack_adapters.training.trainer import PromptTrainer
from synthetic import MakeSettings, settings_of
from tiny import make_manifest, random_arrays

RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_come_together_and_replace_those_of_before(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "bundle"
    for content in ("old", "new"):
        with staged(output) as folder:
            for name in ("a", "b"):
                (folder / name).write_text(content)
            assert not output.exists() or (output / "a").read_text() == "old"
        assert [(output / name).read_text() for name in ("a", "b")] == [content] * 2
        assert names(output.parent) == ["bundle"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_leaves_the_output_as_it_was(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "a").write_text("old")

    def write() -> None:
        with staged(tmp_path / "bundle") as folder:
            (folder / "a").write_text("new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert (tmp_path / "bundle" / "a").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_what_a_killed_writer_left_is_not_taken_over(tmp_path: Path) -> None:
    left = tmp_path / ".bundle.unfinished"
    left.mkdir()
    (left / "half").write_text("of another run")
    with staged(tmp_path / "bundle") as folder:
        (folder / "a").write_text("new")
    assert names(tmp_path) == ["bundle"]
    assert names(tmp_path / "bundle") == ["a"]


@pytest.mark.parametrize("output", ["file", "file/bundle"])
def test_an_output_that_cannot_be_made_is_refused_before_anything_is_trained(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    def no_step(*_: Any) -> None:
        raise AssertionError("a step was trained")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(PromptTrainer, "training_step", no_step)
    with pytest.raises(InvalidRequest, match="file"):
        run_training(make_settings(output=tmp_path / output))
    assert names(tmp_path) == ["data", "file"]


def test_full_disks_are_known_in_every_librarys_words() -> None:
    assert is_disk_full(FULL)
    assert is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert is_disk_full(RUST)
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = FULL
    assert is_disk_full(wrapped)
    for other in (OSError(errno.EACCES, "Permission denied"), ValueError("full of it"), RuntimeError("unexpected pos")):
        assert not is_disk_full(other)


def test_torch_says_nothing_of_a_disk_but_is_understood(tmp_path: Path) -> None:
    """A limit on the size of files makes its writer fail as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.save({"a": torch.zeros(10_000)}, str(tmp_path / "optimizer.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "No space" not in str(caught.value)
    assert is_disk_full(caught.value)


def test_a_full_disk_is_told_once_with_the_place_and_the_way_on(tmp_path: Path) -> None:
    outer, inner = told_if_full(tmp_path / "outer"), told_if_full(tmp_path / "inner")
    with pytest.raises(DiskFull, match=r"inner could not be written .* --resume") as caught, outer, inner:
        raise RUST
    assert caught.value.__cause__ is RUST
    with pytest.raises(ValueError, match="other"), told_if_full(tmp_path):
        raise ValueError("other")


@contextmanager
def filled(
    patch: pytest.MonkeyPatch, kind: Any, name: str, is_full: Callable[..., bool], error: Exception
) -> Iterator[None]:
    """A function begins to write, and then finds no more room."""
    usual = getattr(kind, name)

    def write(*given: Any, **named: Any) -> Any:
        if is_full(*given):
            raise error
        return usual(*given, **named)

    with patch.context() as context:
        context.setattr(kind, name, write)
        yield


def text_named(name: str) -> Callable[..., bool]:
    return lambda path, *_: Path(path).name == name


PLACES: dict[str, tuple[Any, str, Callable[..., bool], Exception]] = {
    "run.json": (Path, "write_text", text_named("run.unfinished"), FULL),
    "first checkpoint's tensors": (Trainer, "_save", lambda one, *_: one.state.global_step == 20, RUST),
    "second checkpoint's tensors": (Trainer, "_save", lambda one, *_: one.state.global_step == 40, RUST),
    "second checkpoint's optimizer": (
        Trainer,
        "_save_optimizer_and_scheduler",
        lambda one, *_: one.state.global_step == 40,
        RuntimeError("basic_ios::clear: iostream error"),
    ),
    "second checkpoint's last file": (TrainerState, "save_to_json", lambda one, *_: one.global_step == 40, FULL),
    "the bundle": (run, "write_bundle", lambda *_: True, RUST),
    "its manifest": (Path, "write_bytes", text_named("adapter.json"), FULL),
    "its card": (Path, "write_text", text_named("README.md"), FULL),
    "the metrics": (Path, "write_text", text_named("metrics.json"), FULL),
}


@pytest.fixture(scope="module")
def unbroken(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what two epochs come to."""
    settings = settings_of(tmp_path_factory.mktemp("unbroken"), backbone_folder, epochs=2)
    run_training(settings)
    return bundle_digest(settings.output)


def old_bundle(backbone: Path) -> tuple[Manifest, dict[str, Any]]:
    spec = BackboneSpec.load(backbone)
    manifest = make_manifest(spec)
    return manifest, random_arrays(manifest, spec.hidden_size)


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_at_any_place_leaves_the_old_bundle_and_a_run_to_go_on_with(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: str, place: str
) -> None:
    write_bundle(tmp_path / "bundle", *old_bundle(make_settings().backbone), card="# old\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    settings = make_settings(epochs=2)
    with filled(monkeypatch, *PLACES[place]), pytest.raises(DiskFull, match=r"bundle could not be .* --resume"):
        run_training(settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()} == before
    has_begun = place not in ("run.json", "first checkpoint's tensors")
    assert names(tmp_path) == (["bundle", "bundle.training", "data"] if has_begun else ["bundle", "data"])
    run_training(settings, "resume")
    assert names(tmp_path) == ["bundle", "data"]
    assert bundle_digest(settings.output) == unbroken


def test_a_checkpoint_is_whole_with_its_last_file(tmp_path: Path) -> None:
    for number, state in ((20, "{}"), (100, "{}"), (120, '{"epoch": 1.'), (140, None)):
        folder = tmp_path / "shared" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    assert last_checkpoint(tmp_path / "shared") == tmp_path / "shared" / "checkpoint-100"
    assert names(tmp_path / "shared") == ["checkpoint-100", "checkpoint-20"]
    assert last_checkpoint(tmp_path / "nothing") is None


def test_what_is_asked_for_is_written_once_and_whole(tmp_path: Path) -> None:
    output, folder = tmp_path / "bundle", tmp_path / "bundle.training"

    def broken() -> None:
        with Workspace(output, {"seed": 1}).opened(None) as opened:
            assert opened == folder
            (folder / "checkpoint-1").mkdir()
            (folder / "checkpoint-1" / "trainer_state.json").write_text("{}")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert names(folder) == ["checkpoint-1", "run.json"]
    written = (folder / "run.json").stat().st_mtime_ns
    with pytest.raises(ZeroDivisionError), Workspace(output, {"seed": 1}).opened("resume"):
        raise ZeroDivisionError
    assert (folder / "run.json").stat().st_mtime_ns == written
    assert json.loads((folder / "run.json").read_text()) == {"seed": 1}
    with pytest.raises(InvalidRequest, match="seed differ"), Workspace(output, {"seed": 2}).opened("resume"):
        raise AssertionError("it was opened")
    (folder / "run.json").unlink()
    with Workspace(output, {"seed": 2}).opened("resume"):
        assert json.loads((folder / "run.json").read_text()) == {"seed": 2}
    assert names(tmp_path) == []


def test_sources_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("a")
    prints = [fingerprint_of(str(folder)), fingerprint_of(str(folder / "train.csv"))]
    (folder / "train.csv").write_text("b")
    prints += [fingerprint_of(str(folder)), fingerprint_of(str(folder / "train.csv"))]
    (folder / "train.csv").rename(folder / "dev.csv")
    prints += [fingerprint_of(str(folder)), fingerprint_of("owner/name")]
    assert len(set(prints)) == 6
    assert prints[-1] == "owner/name"
