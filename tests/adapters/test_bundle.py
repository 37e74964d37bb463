"""One test per way in which an adapter file can be malformed, and what makes two bundles equal."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from prefixrack.errors import (
    BackboneMismatch,
    BundleFault,
    LabelMismatch,
    MalformedBundle,
    NonfiniteTensor,
    TensorMismatch,
)
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.bundle import (
    CARD_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    bundle_bytes,
    bundle_digest,
    check_bundle,
    digest_of,
    read_card,
    read_tensors,
    write_bundle,
)
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from tiny import make_manifest, random_arrays, write_random_bundle

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def bundle(tmp_path: Path, spec: BackboneSpec) -> Path:
    return write_random_bundle(tmp_path / "bundle", spec)


def check(folder: Path, spec: BackboneSpec, serving_dtype: str = "float32") -> Manifest:
    return check_bundle((folder / MANIFEST_FILE).read_bytes(), folder / TENSORS_FILE, spec, serving_dtype)


def edit_tensors(folder: Path, change: Callable[[Arrays], object]) -> None:
    arrays = load_file(folder / TENSORS_FILE)
    change(arrays)
    save_file(arrays, folder / TENSORS_FILE)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / MANIFEST_FILE).read_bytes())
    change(document)
    (folder / MANIFEST_FILE).write_text(json.dumps(document))


def test_all_files_may_be_read_by_whom_the_system_lets(bundle: Path, tmp_path: Path) -> None:
    """A server often runs as another user than the one who trained."""
    (tmp_path / "any").touch()
    usual = (tmp_path / "any").stat().st_mode
    assert {path.stat().st_mode for path in bundle.iterdir()} == {usual}


def test_a_sound_bundle_is_accepted_for_every_serving_dtype(bundle: Path, spec: BackboneSpec) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        assert check(bundle, spec, dtype).name == "tiny"


@pytest.mark.parametrize("kept", [0, 4, 8, 20, 200, -1])
def test_truncated_tensors_are_refused(bundle: Path, spec: BackboneSpec, kept: int) -> None:
    path = bundle / TENSORS_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MalformedBundle, match="not a sound safetensors file"):
        check(bundle, spec)
    with pytest.raises(MalformedBundle, match="not a sound safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize("claimed", [0, 3, 10**6, 2**40, 2**63, 2**64 - 1])
def test_lying_header_length_is_refused(bundle: Path, spec: BackboneSpec, claimed: int) -> None:
    path = bundle / TENSORS_FILE
    path.write_bytes(claimed.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(MalformedBundle, match="not a sound safetensors file"):
        check(bundle, spec)


def test_offsets_that_leave_the_file_are_refused(bundle: Path, spec: BackboneSpec) -> None:
    path = bundle / TENSORS_FILE
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["prefix"]["data_offsets"][1] += 4096
    rewritten = json.dumps(header).encode()
    path.write_bytes(len(rewritten).to_bytes(8, "little") + rewritten + content[8 + length :])
    with pytest.raises(MalformedBundle, match="not a sound safetensors file"):
        check(bundle, spec)


class Bomb:
    """Leaves a mark on the disk when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Bomb(marker))


def torch_saved(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"prefix": Bomb(marker)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("dangerous", [pickled, torch_saved])
def test_a_pickle_under_the_tensors_name_is_refused_and_never_opened(
    bundle: Path, spec: BackboneSpec, tmp_path: Path, dangerous: Callable[[Path], bytes]
) -> None:
    marker, path = tmp_path / "unpickled", bundle / TENSORS_FILE
    path.write_bytes(dangerous(marker))
    for attempt in (lambda: check(bundle, spec), lambda: read_tensors(path), lambda: Adapter.load(bundle)):
        with pytest.raises(MalformedBundle, match="never opened"):
            attempt()
    assert not marker.exists()
    torch.load(io.BytesIO(torch_saved(marker)), weights_only=False)
    assert marker.exists(), "the bomb is no bomb: this test would prove nothing"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["prefix", "head.0.weight", "head.0.bias"])
def test_values_that_are_not_finite_are_refused(bundle: Path, spec: BackboneSpec, name: str, value: float) -> None:
    edit_tensors(bundle, lambda arrays: arrays[name].flat.__setitem__(1, value))
    with pytest.raises(NonfiniteTensor, match=rf"'{name}' has 1 values that are not finite"):
        check(bundle, spec)


def test_values_too_large_for_the_serving_dtype_are_refused(bundle: Path, spec: BackboneSpec) -> None:
    edit_tensors(bundle, lambda arrays: arrays["prefix"].flat.__setitem__(0, -70_000.0))
    for dtype in ("float32", "bfloat16"):
        check(bundle, spec, dtype)
    with pytest.raises(NonfiniteTensor, match=r"not finite in float16, the first at \[0, 0, 0, 0, 0\]: -70000.0"):
        check(bundle, spec, "float16")


def test_values_that_bfloat16_rounds_to_infinity_are_refused(bundle: Path, spec: BackboneSpec) -> None:
    edit_tensors(bundle, lambda arrays: arrays["prefix"].flat.__setitem__(0, np.finfo(np.float32).max))
    check(bundle, spec, "float32")
    with pytest.raises(NonfiniteTensor, match="bfloat16"):
        check(bundle, spec, "bfloat16")


def test_wrong_shape_is_refused(bundle: Path, spec: BackboneSpec) -> None:
    edit_tensors(bundle, lambda arrays: arrays.update(prefix=arrays["prefix"][:, :, :3].copy()))
    with pytest.raises(TensorMismatch, match=r"'prefix' is F32 \[2, 2, 3, 4, 8\], .* \[2, 2, 4, 4, 8\]"):
        check(bundle, spec)


def test_same_size_in_another_shape_is_refused(bundle: Path, spec: BackboneSpec) -> None:
    edit_tensors(bundle, lambda arrays: arrays.update({"head.0.weight": arrays["head.0.weight"].T.copy()}))
    with pytest.raises(TensorMismatch, match=r"'head.0.weight' is F32 \[32, 2\]"):
        check(bundle, spec)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_wrong_dtype_is_refused(bundle: Path, spec: BackboneSpec, dtype: type[Any]) -> None:
    edit_tensors(bundle, lambda arrays: arrays.update({"head.0.bias": arrays["head.0.bias"].astype(dtype)}))
    with pytest.raises(TensorMismatch, match=r"'head.0.bias' is .* the manifest says F32"):
        check(bundle, spec)


def test_a_dtype_that_no_bundle_has_is_refused_without_a_manifest_too(bundle: Path) -> None:
    edit_tensors(bundle, lambda arrays: arrays.update({"head.0.bias": arrays["head.0.bias"].astype(np.int32)}))
    with pytest.raises(TensorMismatch, match="I32; F32, F16 and BF16 are allowed"):
        read_tensors(bundle / TENSORS_FILE)


@pytest.mark.parametrize("name", ["prefix", "head.0.weight", "head.0.bias"])
def test_missing_tensor_is_refused(bundle: Path, spec: BackboneSpec, name: str) -> None:
    edit_tensors(bundle, lambda arrays: arrays.pop(name))
    with pytest.raises(TensorMismatch, match=rf"lacks \['{name}'\]"):
        check(bundle, spec)


def test_extra_tensor_is_refused(bundle: Path, spec: BackboneSpec) -> None:
    edit_tensors(bundle, lambda arrays: arrays.update({"prefix_encoder.mlp": np.zeros(3, np.float32)}))
    with pytest.raises(TensorMismatch, match=r"has \['prefix_encoder.mlp'\] too many"):
        check(bundle, spec)


def test_wrong_fingerprint_is_refused_with_both_names(bundle: Path, spec: BackboneSpec) -> None:
    edit_manifest(bundle, lambda document: document["backbone"].update(fingerprint="0" * 64, model_id="other/model"))
    with pytest.raises(BackboneMismatch, match=rf"'other/model' \(fingerprint 000000000000….*{spec.fingerprint[:12]}"):
        check(bundle, spec)


@pytest.mark.parametrize("field", ["num_layers", "num_kv_heads", "head_dim"])
def test_prefix_of_another_geometry_is_refused(bundle: Path, spec: BackboneSpec, field: str) -> None:
    edit_manifest(bundle, lambda document: document["prefix"].update({field: 3}))
    with pytest.raises(TensorMismatch, match="the backbone"):
        check(bundle, spec)


def test_prefix_that_leaves_no_positions_is_refused(tmp_path: Path, spec: BackboneSpec) -> None:
    folder = write_random_bundle(tmp_path, spec, prefix_len=spec.max_positions - 3)
    with pytest.raises(TensorMismatch, match="leaves 3 of the backbone's 192 positions"):
        check(folder, spec)
    fits = write_random_bundle(tmp_path / "unmoved", spec, prefix_len=spec.max_positions - 3, positions="unmoved")
    check(fits, spec)


def test_labels_that_do_not_match_the_head_are_refused(bundle: Path, spec: BackboneSpec) -> None:
    edit_manifest(bundle, lambda document: document["labels"].append("perhaps"))
    with pytest.raises(LabelMismatch, match=r"2 outputs.*3 labels"):
        check(bundle, spec)


@pytest.mark.parametrize("name", [MANIFEST_FILE, TENSORS_FILE])
def test_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(MalformedBundle, match=f"has no {name}"):
        Adapter.load(bundle)


def test_a_missing_tensors_path_is_a_bundle_fault(bundle: Path, spec: BackboneSpec) -> None:
    manifest = (bundle / MANIFEST_FILE).read_bytes()
    with pytest.raises(BundleFault):
        check_bundle(manifest, bundle / "nothing.safetensors", spec, "float32")


def test_digest_is_the_hash_of_sorted_name_and_hash_lines(bundle: Path) -> None:
    first = hashlib.sha256((bundle / MANIFEST_FILE).read_bytes()).hexdigest()
    second = hashlib.sha256((bundle / TENSORS_FILE).read_bytes()).hexdigest()
    lines = f"adapter.json {first}\nadapter.safetensors {second}\n"
    assert bundle_digest(bundle) == digest_of(first, second) == hashlib.sha256(lines.encode()).hexdigest()


def test_digest_is_stable_and_ignores_the_card(bundle: Path, tmp_path: Path, spec: BackboneSpec) -> None:
    digest = bundle_digest(bundle)
    (bundle / CARD_FILE).write_text("another card")
    (bundle / "metrics.json").write_text("{}")
    again = write_random_bundle(tmp_path / "again", spec)
    assert bundle_digest(bundle) == bundle_digest(again) == digest
    assert Adapter.load(again).digest == digest


def test_digest_follows_manifest_and_tensors(bundle: Path) -> None:
    seen = {bundle_digest(bundle)}
    edit_tensors(bundle, lambda arrays: arrays["prefix"].flat.__setitem__(0, 0.0))
    seen.add(bundle_digest(bundle))
    edit_manifest(bundle, lambda document: document.update(description="changed"))
    seen.add(bundle_digest(bundle))
    assert len(seen) == 3


def test_equal_bundles_make_equal_tars(bundle: Path, tmp_path: Path, spec: BackboneSpec) -> None:
    again = write_random_bundle(tmp_path / "again", spec)
    for path in again.iterdir():
        path.chmod(0o600)
        os.utime(path, (1, 1))
    assert bundle_bytes(bundle) == bundle_bytes(again)


def test_the_tar_is_plain_and_complete(bundle: Path) -> None:
    (bundle / "metrics.json").write_text("{}")
    content = bundle_bytes(bundle)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [MANIFEST_FILE, TENSORS_FILE, CARD_FILE]
        assert all(member.isfile() and member.mtime == 0 and member.uid == 0 for member in members)
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            assert file.read() == (bundle / member.name).read_bytes()
    assert len(content) % tarfile.BLOCKSIZE == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read_back(tmp_path: Path, spec: BackboneSpec, dtype: str) -> None:
    draft = make_manifest(spec, has_pooler=True)
    manifest = draft.model_copy(
        update={
            "prefix": draft.prefix.model_copy(update={"dtype": dtype}),
            "head": draft.head.model_copy(update={"dtype": dtype}),
        }
    )
    arrays = {name: values.astype(dtype) for name, values in random_arrays(manifest, spec.hidden_size).items()}
    write_bundle(tmp_path, manifest, arrays, card="# Tëst\n")
    assert check(tmp_path, spec) == manifest
    assert read_card(tmp_path) == "# Tëst\n"
    stored = read_tensors(tmp_path / TENSORS_FILE)
    assert stored.keys() == arrays.keys()
    for name, values in arrays.items():
        assert stored[name].dtype == {"float32": "F32", "float16": "F16"}[dtype]
        np.testing.assert_array_equal(stored[name].values, values.astype(np.float32))


def test_bfloat16_tensors_of_other_tools_are_read(tmp_path: Path, spec: BackboneSpec) -> None:
    draft = make_manifest(spec)
    prefix = draft.prefix.model_copy(update={"dtype": "bfloat16"})
    manifest = draft.model_copy(update={"prefix": prefix})
    arrays = random_arrays(manifest, spec.hidden_size)
    write_bundle(tmp_path, manifest, arrays)
    tensors = {name: torch.tensor(values) for name, values in arrays.items()}
    tensors["prefix"] = tensors["prefix"].bfloat16()
    save_torch_file(tensors, tmp_path / TENSORS_FILE)
    check(tmp_path, spec)
    stored = read_tensors(tmp_path / TENSORS_FILE)["prefix"].values
    np.testing.assert_array_equal(stored, tensors["prefix"].float().numpy())
    served = Adapter.load(tmp_path).prefix
    assert served is not None
    assert torch.equal(served, tensors["prefix"].float().transpose(2, 3))


def test_a_head_without_prefix_is_a_bundle_too(tmp_path: Path, spec: BackboneSpec) -> None:
    folder = write_random_bundle(tmp_path, spec, prefix_len=0)
    check(folder, spec)
    assert "prefix" not in read_tensors(folder / TENSORS_FILE)
    assert Adapter.load(folder).prefix is None
