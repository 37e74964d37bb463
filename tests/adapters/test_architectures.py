"""What configs of the families say, in old and new spelling, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.architectures import ARCHITECTURES
from prefixrack_adapters.families import FAMILIES
from prefixrack_adapters.rotary import causal_windows, windows_around
from prefixrack_adapters.spec import BackboneSpec
from tiny import DECODERS, MAX_POSITIONS, write_backbone

ROTARY_DECODERS = [family for family in DECODERS if family != "gpt2"]
TASK_MODELS = {
    **dict.fromkeys(DECODERS, (AutoModelForSequenceClassification, AutoModelForCausalLM)),
    **dict.fromkeys(("albert", "distilbert", "modernbert"), (AutoModelForSequenceClassification, AutoModelForMaskedLM)),
}


def read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def write(folder: Path, config: dict[str, Any]) -> str:
    """The fingerprint under a changed config."""
    (folder / "config.json").write_text(json.dumps(config))
    return BackboneSpec.load(folder).fingerprint


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


def test_every_architecture_has_a_family() -> None:
    assert set(ARCHITECTURES) == set(FAMILIES)


def test_an_unsupported_family_is_refused_with_a_list_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UnsupportedBackbone) as refused:
        BackboneSpec.load(tmp_path)
    assert all(family in refused.value.detail for family in (*FAMILIES, "t5"))


@pytest.mark.parametrize(
    ("family", "heads", "head_dim", "embedding_size", "num_segments"),
    [
        ("albert", 4, 8, 24, 2),
        ("distilbert", 4, 8, 32, 0),
        ("modernbert", 4, 8, 32, 0),
        ("gpt2", 4, 8, 32, 0),
        ("llama", 2, 8, 32, 0),
        ("qwen3", 2, 12, 32, 0),
        ("glm4", 2, 8, 32, 0),
    ],
)
def test_shapes(family: str, heads: int, head_dim: int, embedding_size: int, num_segments: int, tmp_path: Path) -> None:
    spec = BackboneSpec.load(write_backbone(tmp_path, family))
    assert (spec.num_layers, spec.num_kv_heads, spec.head_dim) == (2, heads, head_dim)
    assert (spec.hidden_size, spec.embedding_size, spec.num_segments) == (32, embedding_size, num_segments)
    assert (spec.max_positions, spec.base_position) == (MAX_POSITIONS, 0)


@pytest.mark.parametrize("family", TASK_MODELS)
def test_the_fingerprint_is_that_of_task_models(family: str, tmp_path: Path) -> None:
    plain = write_backbone(tmp_path / "plain", family)
    base = AutoModel.from_pretrained(plain)
    for kind in TASK_MODELS[family]:
        model = kind.from_pretrained(plain)
        model.base_model.load_state_dict(base.state_dict(), strict=False)
        model.save_pretrained(tmp_path / kind.__name__)
        assert BackboneSpec.load(tmp_path / kind.__name__).fingerprint == BackboneSpec.load(plain).fingerprint


@pytest.mark.parametrize(
    ("family", "buffer"),
    [
        ("llama", "layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "h.0.attn.bias"),
        ("gpt2", "h.1.attn.masked_bias"),
        ("distilbert", "embeddings.position_ids"),
    ],
)
def test_buffers_of_old_files_do_not_count(family: str, buffer: str, tmp_path: Path) -> None:
    fingerprint = BackboneSpec.load(write_backbone(tmp_path, family)).fingerprint
    tensors = load_file(tmp_path / "model.safetensors")
    assert buffer not in tensors
    save_file(tensors | {buffer: torch.ones(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert BackboneSpec.load(tmp_path).fingerprint == fingerprint


@pytest.mark.parametrize("family", ROTARY_DECODERS)
def test_configs_from_before_rope_parameters_are_the_same_backbone(family: str, tmp_path: Path) -> None:
    theta, scaling = 5000.0, {"factor": 2.0, "rope_type": "linear"}
    write_backbone(tmp_path, family, rope_parameters={"rope_theta": theta, **scaling})
    new = read(tmp_path)
    fingerprint = BackboneSpec.load(tmp_path).fingerprint
    part = {"partial_rotary_factor": 0.5} if "glm" in family else {}
    old = without(new, "rope_parameters", "layer_types") | part | {"rope_theta": theta, "rope_scaling": scaling}
    assert write(tmp_path, old) == fingerprint
    assert write(tmp_path, old | {"rope_scaling": {"factor": 2.0, "type": "linear"}}) == fingerprint
    assert write(tmp_path, old | {"rope_theta": 6000.0}) != fingerprint
    assert write(tmp_path, old | {"rope_scaling": None}) != fingerprint


def test_old_configs_of_modernbert_are_the_same_backbone(tmp_path: Path) -> None:
    fingerprint = BackboneSpec.load(write_backbone(tmp_path, "modernbert")).fingerprint
    old = without(read(tmp_path), "rope_parameters", "layer_types") | {
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "global_attn_every_n_layers": 3,
    }
    assert write(tmp_path, old) == fingerprint
    changes: list[dict[str, Any]] = [
        {"local_rope_theta": 9000.0},
        {"global_attn_every_n_layers": 1},
        {"local_attention": 12},
    ]
    assert len({fingerprint, *(write(tmp_path, old | change) for change in changes)}) == 4


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", {"rms_norm_eps": 1e-5}),
        ("llama", {"num_attention_heads": 8, "head_dim": 4}),
        ("qwen2", {"sliding_window": 9}),
        ("qwen2", {"use_sliding_window": False}),
        ("qwen3", {"layer_types": ["sliding_attention", "full_attention"]}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"n_head": 8}),
        ("distilbert", {"activation": "relu"}),
        ("albert", {"num_hidden_groups": 1}),
    ],
)
def test_fields_that_change_outputs_change_the_fingerprint(family: str, change: dict[str, Any], tmp_path: Path) -> None:
    fingerprint = BackboneSpec.load(write_backbone(tmp_path, family)).fingerprint
    assert write(tmp_path, read(tmp_path) | change) != fingerprint


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type 'longrope'"),
        ("llama", {"rope_parameters": {}, "rope_scaling": {"type": "su"}}, "rope_type 'su'"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, "rope_type 'longrope'"),
        ("qwen3", {"is_causal": False}, "is_causal false"),
        ("gpt2", {"is_causal": False}, "is_causal false"),
        ("albert", {"inner_group_num": 2}, "inner_group_num 2"),
    ],
)
def test_what_packs_cannot_compute_is_refused(family: str, change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_backbone(tmp_path, family)
    with pytest.raises(UnsupportedBackbone, match=f"{reason}.*support"):
        write(tmp_path, read(tmp_path) | change)


@pytest.mark.parametrize("family", TASK_MODELS)
def test_windows_are_those_of_the_stock_layers(family: str, tmp_path: Path) -> None:
    """Given the layers by number or by name."""
    config = read(write_backbone(tmp_path, family))
    model: Any = AutoModel.from_pretrained(tmp_path)
    stock = [module.sliding_window for module in model.modules() if hasattr(module, "sliding_window")]
    for form in (config, without(config, "layer_types")):
        if family == "modernbert":  # the stock layer counts the token itself
            assert [None if reach is None else reach + 1 for reach in windows_around(form)] == stock == [None, 5]
        elif family.startswith("qwen"):
            assert causal_windows(form) == stock == [None, 8]
        else:
            assert set(stock) <= {None}
