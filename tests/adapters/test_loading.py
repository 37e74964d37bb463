"""Loading: any dtype from any file form, in no more memory than the backbone's own size and a tenth."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.architectures import ARCHITECTURES
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.devices import DTYPES
from prefixrack_adapters.families import FAMILIES, Family, load_family, load_family_for_inference
from prefixrack_adapters.families.bert import Bert
from prefixrack_adapters.families.bert_weights import load_bert_weights
from prefixrack_adapters.families.stock import Stock, load_stock_model
from prefixrack_adapters.file_pages import MAPS, FilePages
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.weights import stored_dtypes
from tiny import write_backbone

LOAD_PROCESS = Path(__file__).parents[1] / "load_process.py"
NUM_SHARDS = 5
STOCK_FAMILIES = sorted(name for name, family in FAMILIES.items() if issubclass(family, Stock))
FUSED_FAMILIES = sorted(name for name, family in FAMILIES.items() if issubclass(family, Bert))
needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="this system does not tell how a process uses its memory")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One load of the large backbone: a file form, the dtype in the files, and the one that is asked for."""

    form: str
    stored: str
    wanted: str

    @property
    def folder_name(self) -> str:
        return f"{self.form}-{self.stored}"

    def __str__(self) -> str:
        return f"{self.folder_name} to {self.wanted}"


CASES = [
    Case("single", "float32", "float32"),
    Case("sharded", "float32", "float32"),
    Case("bin", "float32", "float32"),
    Case("single", "float32", "bfloat16"),
    Case("single", "float32", "float16"),
    Case("sharded", "float32", "bfloat16"),
    Case("bin", "float32", "bfloat16"),
    Case("single", "bfloat16", "float32"),
]


def write_sharded(tensors: Tensors, folder: Path, suffix: str = ".safetensors") -> None:
    names = sorted(tensors)
    is_safe = suffix == ".safetensors"
    stem = "model" if is_safe else "pytorch_model"
    files = {f"{stem}-{part + 1:05}-of-{NUM_SHARDS:05}{suffix}": names[part::NUM_SHARDS] for part in range(NUM_SHARDS)}
    for name, members in files.items():
        part = {member: tensors[member] for member in members}
        save_file(part, folder / name, {"format": "pt"}) if is_safe else torch.save(part, folder / name)
    index = {"metadata": {}, "weight_map": {member: name for name, members in files.items() for member in members}}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def write_weights(tensors: Tensors, folder: Path, form: str) -> None:
    match form:
        case "single":
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        case "sharded":
            write_sharded(tensors, folder)
        case "bin":
            torch.save(tensors, folder / "pytorch_model.bin")
        case "sharded-bin":
            write_sharded(tensors, folder, ".bin")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BERT of 190 MB in float32, half of it word vectors, in every file form."""
    root = tmp_path_factory.mktemp("large")
    config = BertConfig(vocab_size=24_000, hidden_size=1024, num_hidden_layers=2, num_attention_heads=16)
    config.intermediate_size = 4096
    with torch.device("meta"):
        names = BertModel(config, add_pooling_layer=False).state_dict()
    block = torch.randn(24_000 * 1024, generator=torch.Generator().manual_seed(0))
    for stored, form in dict.fromkeys((case.stored, case.form) for case in CASES):
        tensors = {name: block[: one.numel()].reshape(one.shape).to(DTYPES[stored]) for name, one in names.items()}
        folder = root / f"{form}-{stored}"
        config.save_pretrained(folder)
        write_weights({name: tensor.clone() for name, tensor in tensors.items()}, folder, form)
    yield root
    shutil.rmtree(root)


@needs_maps
def test_loading_takes_no_more_than_the_backbones_size_and_a_tenth(large: Path, backbone_folder: Path) -> None:
    """Mapped pages count too, so neither a second copy nor a whole file beside its cast passes."""
    pairs = [part for case in CASES for part in (str(large / case.folder_name), case.wanted)]
    command = [sys.executable, str(LOAD_PROCESS), str(backbone_folder), *pairs]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    seen = dict(zip(map(str, CASES), map(json.loads, done.stdout.splitlines()), strict=True))
    assert all(one["size_bytes"] > 90 << 20 for one in seen.values())
    too_much = {case: one for case, one in seen.items() if one["peak_bytes"] > 1.1 * one["size_bytes"]}
    assert not too_much
    held = [one["peak_bytes"] / one["size_bytes"] for one in seen.values()]
    assert min(held) > 0.9, "the measurement misses the weights themselves"


@needs_maps
@pytest.mark.parametrize("load", [load_family, load_family_for_inference])
@pytest.mark.parametrize("form", ["single", "sharded", "bin"])
def test_fused_layers_leave_nothing_of_the_file_in_memory(
    large: Path, load: Callable[[Path, str, torch.dtype], Family], form: str
) -> None:
    """Their weights are copies, which would count twice beside the pages that they were read from."""
    family = load(large / f"{form}-float32", "bert", torch.float32)
    sizes = [one.nbytes for name, one in family.model.named_parameters() if name.startswith("encoder.")]
    for parameter in family.model.parameters():
        assert math.isfinite(float(parameter.detach().max()))
    before = held_of_files(large)
    family.optimise_for_inference()
    assert held_of_files(large) < before - 0.9 * sum(sizes)


def held_of_files(folder: Path) -> int:
    """Bytes of the files below a folder that this process's maps hold in memory."""
    held, is_below = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            held += int(line.split()[1]) * 1024 if is_below else 0
        elif not line.split()[0].endswith(":"):
            is_below = str(folder) in line
    return held


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", STOCK_FAMILIES)
def test_a_cast_load_is_what_transformers_loads(family: str, dtype: str, tmp_path: Path) -> None:
    """Bit for bit; buffers that stay in float32 there stay so here. Parameters do not: DeBERTa's biases would."""
    folder = write_backbone(tmp_path, family)
    seen = load_stock_model(folder, DTYPES[dtype], "eager")
    wanted = AutoModel.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation="eager")
    assert_same_tensors(dict(seen.named_parameters()), {n: p.to(DTYPES[dtype]) for n, p in wanted.named_parameters()})
    assert_same_tensors(dict(seen.named_buffers()), dict(wanted.named_buffers()))


def assert_same_tensors(seen: Tensors, wanted: Tensors) -> None:
    assert seen.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert seen[name].dtype is tensor.dtype, name
        assert torch.equal(seen[name], tensor), name


@pytest.mark.parametrize("family", FUSED_FAMILIES)
@pytest.mark.parametrize("form", ["single", "sharded", "bin", "sharded-bin"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_loaded_without_the_stock_model_is_what_transformers_loads(
    family: str, form: str, dtype: str, tmp_path: Path
) -> None:
    """From the files of a task checkpoint, with the old names of normalisation and a head that is left out."""
    source, folder = write_backbone(tmp_path / "source", family), tmp_path / "checkpoint"
    prefix = ARCHITECTURES[family].model_prefix
    tensors = load_file(source / "model.safetensors")
    as_task = {f"{prefix}{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): one for name, one in tensors.items()}
    folder.mkdir()
    rewrite(source, folder, as_task | {"classifier.weight": torch.ones(2, 32)}, form)
    seen = load_bert_weights(folder, DTYPES[dtype])
    assert seen is not None
    wanted = AutoModel.from_pretrained(source, dtype=DTYPES[dtype])
    of_stock = {name: one for name, one in wanted.named_parameters() if not name.startswith("pooler.")}
    assert_same_tensors(dict(seen.named_parameters()), of_stock)


def test_a_tensor_that_is_not_in_the_files_is_named(backbone_folder: Path, tmp_path: Path) -> None:
    """transformers would draw it at random."""
    tensors = load_file(backbone_folder / "model.safetensors")
    del tensors["encoder.layer.1.attention.self.key.bias"]
    rewrite(backbone_folder, tmp_path, tensors, "single")
    with pytest.raises(UnsupportedBackbone, match=r"lacks 1 of the model's tensors.*layer\.1\.attention\.self\.key"):
        load_bert_weights(tmp_path, torch.float32)


def test_a_tensor_of_another_shape_is_named(backbone_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(backbone_folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] = torch.zeros(31)
    rewrite(backbone_folder, tmp_path, tensors, "single")
    with pytest.raises(UnsupportedBackbone, match=r"'embeddings.LayerNorm.bias' in shape \[31\].* asks for \[32\]"):
        load_bert_weights(tmp_path, torch.float32)


@pytest.mark.parametrize("form", ["single", "sharded", "bin", "sharded-bin"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_every_file_form_loads_in_every_dtype(
    form: str, stored: str, wanted: str, backbone_folder: Path, tmp_path: Path
) -> None:
    tensors = {name: one.to(DTYPES[stored]) for name, one in load_file(backbone_folder / "model.safetensors").items()}
    rewrite(backbone_folder, tmp_path, tensors, form)
    assert dict(stored_dtypes(tmp_path)) == {
        {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[stored]: sum(one.numel() for one in tensors.values())
    }
    backbone = Backbone.load(tmp_path, "cpu", wanted)
    assert backbone.dtype is DTYPES[wanted]
    for name, parameter in backbone.model.named_parameters():
        assert torch.equal(parameter, tensors[name].to(DTYPES[wanted])), name


def rewrite(source: Path, folder: Path, tensors: Tensors, form: str) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, folder)
    write_weights(tensors, folder, form)


def test_a_file_of_two_dtypes_loses_nothing(backbone_folder: Path, tmp_path: Path) -> None:
    """Normalisations kept in float32 beside bfloat16 matrices must not pass through bfloat16."""
    tensors = load_file(backbone_folder / "model.safetensors")
    mixed = {name: one if "LayerNorm" in name else one.bfloat16() for name, one in tensors.items()}
    mixed["embeddings.LayerNorm.weight"] = torch.full_like(tensors["embeddings.LayerNorm.weight"], 1 + 2**-20)
    rewrite(backbone_folder, tmp_path, mixed, "single")
    backbone = Backbone.load(tmp_path, "cpu", "float32")
    for name, parameter in backbone.model.named_parameters():
        assert torch.equal(parameter, mixed[name].float()), name


def test_one_file_counts_before_shards(backbone_folder: Path, tmp_path: Path) -> None:
    """As in transformers: the fingerprint and the loaded weights must be those of the same file."""
    tensors = load_file(backbone_folder / "model.safetensors")
    rewrite(backbone_folder, tmp_path, {name: one + 1 for name, one in tensors.items()}, "sharded")
    rewrite(backbone_folder, tmp_path, tensors, "single")
    backbone = Backbone.load(tmp_path, "cpu")
    assert backbone.spec.fingerprint == BackboneSpec.load(backbone_folder).fingerprint
    name, parameter = next(backbone.model.named_parameters())
    assert torch.equal(parameter, tensors[name])


@pytest.mark.parametrize("form", ["sharded", "sharded-bin"])
def test_a_missing_shard_is_named(form: str, backbone_folder: Path, tmp_path: Path) -> None:
    rewrite(backbone_folder, tmp_path, load_file(backbone_folder / "model.safetensors"), form)
    shard = next(tmp_path.glob("*-00002-of-*"))
    shard.unlink()
    with pytest.raises(UnsupportedBackbone, match=rf"lacks {shard.name} \(1 of the {NUM_SHARDS} files"):
        BackboneSpec.load(tmp_path)


def test_every_architecture_has_a_family() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES)


def test_a_family_that_is_not_supported_is_refused_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UnsupportedBackbone, match=f"'t5'.*{', '.join(sorted(ARCHITECTURES))}"):
        Backbone.load(tmp_path)


@needs_maps
def test_pages_of_a_file_are_given_back_and_nothing_else(tmp_path: Path) -> None:
    values = np.arange(1 << 20, dtype=np.int32)
    values.tofile(tmp_path / "values")
    mapped = np.memmap(tmp_path / "values", dtype=np.int32, mode="r")
    pages = FilePages()
    assert int(mapped.sum(dtype=np.int64)) == int(values.sum(dtype=np.int64))
    assert resident_bytes(mapped) == mapped.nbytes
    assert pages.give_back(mapped.ctypes.data, mapped.nbytes)
    assert resident_bytes(mapped) == 0
    assert not pages.give_back(values.ctypes.data, values.nbytes)
    np.testing.assert_array_equal(mapped, values)


def resident_bytes(mapped: np.memmap[tuple[int], np.dtype[np.int32]]) -> int:
    """Of one mapping, as the system counts them."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    start = f"{mapped.ctypes.data:x}-"
    next(line for line in lines if line.lstrip("0").startswith(start))
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))
