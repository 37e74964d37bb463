"""DeBERTa v1, v2 and v3 in packs against stock transformers, and against a loop over pairs of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from pair_by_pair import HEAD_DIM, MAX_POSITIONS, NUM_HEADS, NUM_LAYERS, VARIANTS, PairByPair, write_deberta
from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.attention import PackLayout, Prefix, RowLoop
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.families.deberta_v2 import log_buckets
from prefixrack_adapters.gates import Gate, GatedPrefix
from prefixrack_adapters.packing import Prompt
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.token_rows import token_row
from tiny import make_manifest, vocabulary, write_tokenizer

Load = Callable[..., Backbone]


@pytest.fixture(params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_deberta(tmp_path / "backbone", request.param)


def make_row(row_len: int, first_position: int = 0, num_segments: int = 0) -> Row:
    ids = tuple((7 * index + row_len) % len(vocabulary()) for index in range(row_len))
    return Row(ids, tuple(int(index > 3 and num_segments > 1) for index in range(row_len)), first_position)


def make_prefix(prefix_len: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_LAYERS, 2, NUM_HEADS, prefix_len, HEAD_DIM, generator=generator)


def split_rows(hidden: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return list(hidden.split(list(lengths)))


@pytest.fixture(params=["layer by layer", "optimised"])
def backbone(request: pytest.FixtureRequest, folder: Path) -> Backbone:
    if request.param == "optimised":
        return Backbone.load_for_inference(folder, device="cpu")
    return Backbone.load(folder, device="cpu")


@torch.no_grad()
def test_without_a_prefix_it_is_the_stock_model(backbone: Backbone, folder: Path) -> None:
    stock: Any = AutoModel.from_pretrained(folder).eval()
    rows = [make_row(row_len, num_segments=backbone.spec.num_segments) for row_len in (70, 9, 9, 2, 1)]
    packed = backbone.hidden_states(rows, [None] * len(rows))
    for row, states in zip(rows, split_rows(packed, [len(row) for row in rows]), strict=True):
        wanted = stock(torch.tensor([row.token_ids]), token_type_ids=torch.tensor([row.segment_ids]))
        assert torch.allclose(states, wanted.last_hidden_state[0], atol=1e-5)


@torch.no_grad()
def test_any_mix_is_what_each_row_is_pair_by_pair(backbone: Backbone, folder: Path) -> None:
    """Prefixes of two lengths, one without its first layer, rows without any, soft prompts; equal neighbours too."""
    reference = PairByPair(folder)
    long, short = make_prefix(5, 1), make_prefix(2, 2)
    gapped: list[Tensor | None] = [None, short[1]]
    vectors = torch.randn(3, backbone.spec.embedding_size, generator=torch.Generator().manual_seed(4))
    pack: list[tuple[int, int, Prefix | None, Tensor | None]] = [
        (17, 5, long, None),
        (12, 2, short, None),
        (12, 2, short, None),
        (12, 0, None, None),
        (6, 2, gapped, None),
        (4, 0, None, vectors),
        (12, 5, long, None),
        (2, 0, None, None),
    ]
    rows = [make_row(row_len, first, backbone.spec.num_segments) for row_len, first, _, _ in pack]
    prefixes = [prefix for _, _, prefix, _ in pack]
    prompts = [None if prompt is None else Prompt(prompt, "once") for *_, prompt in pack]
    packed = backbone.hidden_states(rows, prefixes, prompts)
    lengths = [
        len(row) + (0 if prompt is None else len(prompt.vectors)) for row, prompt in zip(rows, prompts, strict=True)
    ]
    for row, prefix, prompt, states in zip(rows, prefixes, prompts, split_rows(packed, lengths), strict=True):
        alone = backbone.hidden_states([row], [prefix], [prompt])
        assert torch.allclose(states, alone, atol=1e-5)
        wanted = reference.states(row, prefix, None if prompt is None else prompt.vectors)
        assert torch.allclose(states, wanted, atol=2e-5)


@torch.no_grad()
def test_gates_open_as_they_do_in_the_stock_layers(backbone: Backbone, folder: Path) -> None:
    """Beside a row without a gate. A plain prefix would give other states."""
    generator = torch.Generator().manual_seed(6)
    gate = Gate(torch.randn(2, NUM_HEADS * HEAD_DIM, generator=generator), torch.randn(2, generator=generator))
    prefix, rows = make_prefix(5, 1), [make_row(9), make_row(4)]
    gated = GatedPrefix(prefix, [gate, None])
    seen, wanted = (one.hidden_states(rows, [gated, prefix]) for one in (backbone, Backbone.load(folder, "cpu")))
    assert torch.allclose(seen, wanted, atol=1e-5)
    assert not torch.allclose(seen, backbone.hidden_states(rows, [prefix, prefix]), atol=1e-3)


@pytest.mark.parametrize("load", [Backbone.load, Backbone.load_for_inference])
@pytest.mark.parametrize("is_gated", [False, True])
@torch.no_grad()
def test_what_enters_a_layer_is_kept_for_gates_alone(load: Load, is_gated: bool, tmp_path: Path) -> None:
    """A recorded pass keeps its pack, and with it a state of every token, for good."""
    family = load(write_deberta(tmp_path, "v1"), "cpu").family
    prefix = GatedPrefix(make_prefix(3, 1), [None] * NUM_LAYERS) if is_gated else make_prefix(3, 1)
    pack = PackLayout([5], [prefix], RowLoop())
    zeros = torch.zeros(5, dtype=torch.int64)
    family.hidden_states(family.words(zeros), zeros, zeros, pack)
    assert (pack.inputs is not None) == is_gated


@torch.no_grad()
def test_an_activation_that_no_fused_layer_has_is_computed_all_the_same(tmp_path: Path) -> None:
    folder = write_deberta(tmp_path, "v1", hidden_act="silu")
    rows, prefixes = [make_row(9), make_row(4)], [make_prefix(5, 1), None]
    seen, wanted = (
        load(folder, "cpu").hidden_states(rows, prefixes) for load in (Backbone.load_for_inference, Backbone.load)
    )
    assert torch.allclose(seen, wanted, atol=1e-5)


@pytest.mark.parametrize("variant", ["v1", "v2-convolution"])
def test_gradients_reach_each_prefix_and_the_backbone_unmixed(variant: str, tmp_path: Path) -> None:
    folder = write_deberta(tmp_path / "backbone", variant)
    backbone, reference = Backbone.load(folder, device="cpu"), PairByPair(folder)
    backbone.model.requires_grad_(True)
    prefixes = [make_prefix(3, 1).requires_grad_(), make_prefix(2, 2).requires_grad_()]
    rows = [make_row(5), make_row(4)]
    weight = torch.randn(9, NUM_HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(5))
    found, wanted = (
        torch.autograd.grad((states * weight).sum(), [*prefixes, *dict(sorted(model.named_parameters())).values()])
        for states, model in (
            (backbone.hidden_states(rows, prefixes), backbone.model),
            (torch.cat([reference.states(*pair) for pair in zip(rows, prefixes, strict=True)]), reference.model),
        )
    )
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("load", [Backbone.load, Backbone.load_for_inference])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("variant", ["v1", "v3", "v2-convolution"])
@torch.no_grad()
def test_half_precision_stays_near_float32(variant: str, dtype: str, load: Load, tmp_path: Path) -> None:
    folder = write_deberta(tmp_path / "backbone", variant)
    rows, prefixes = [make_row(12, 5), make_row(7)], [make_prefix(5, 1), None]
    full = Backbone.load(folder, "cpu").hidden_states(rows, prefixes)
    half = load(folder, "cpu", dtype).hidden_states(rows, prefixes)
    assert half.dtype == getattr(torch, dtype)
    similarity = F.cosine_similarity(full, half.float(), dim=-1)
    assert similarity.min() > (0.99 if dtype == "bfloat16" else 0.9999)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(256, 512), (16, 128), (32, 64), (8, 48)])
def test_far_distances_share_the_buckets_of_the_stock_model(num_buckets: int, max_distance: int) -> None:
    distances = torch.arange(-2 * max_distance, 2 * max_distance + 1)
    wanted = make_log_bucket_position(distances, num_buckets, max_distance).long()
    assert torch.equal(log_buckets(distances, num_buckets, max_distance), wanted)
    assert len(wanted.unique()) < len(distances) / 2


def test_an_adapter_leaves_room_for_its_prefix_even_where_positions_are_relative(tmp_path: Path) -> None:
    spec = BackboneSpec.load(write_deberta(tmp_path, "v1"))
    assert (spec.num_segments, spec.max_positions, spec.base_position) == (0, MAX_POSITIONS, 0)
    assert spec.room(make_manifest(spec, prefix_len=12).prefix) == MAX_POSITIONS - 12


def test_the_width_of_word_vectors_and_heads_is_read(tmp_path: Path) -> None:
    spec = BackboneSpec.load(write_deberta(tmp_path / "v1", "v1-narrow-words"))
    assert (spec.embedding_size, spec.hidden_size, spec.head_dim) == (24, 32, HEAD_DIM)
    spec = BackboneSpec.load(write_deberta(tmp_path / "v2", "v2", attention_head_size=HEAD_DIM))
    assert spec.head_dim == HEAD_DIM


@pytest.mark.parametrize(
    ("variant", "option", "value"),
    [
        ("v1", "talking_head", True),
        ("v1", "pos_att_type", ["c2p", "p2p"]),
        ("v2", "pos_att_type", "c2p|c2p"),
        ("v2", "attention_head_size", 16),
        ("v2", "conv_kernel_size", 4),
    ],
)
def test_an_option_that_is_not_computed_is_refused_by_name(
    variant: str, option: str, value: Any, tmp_path: Path
) -> None:
    edit_config(write_deberta(tmp_path, variant), **{option: value})
    with pytest.raises(UnsupportedBackbone, match=option):
        BackboneSpec.load(tmp_path)


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_fingerprint_sees_one_option_in_both_its_spellings(tmp_path: Path) -> None:
    wanted = BackboneSpec.load(write_deberta(tmp_path, "v1")).fingerprint
    edit_config(tmp_path, pos_att_type="p2c|c2p", pooler_hidden_act="tanh")
    assert BackboneSpec.load(tmp_path).fingerprint == wanted


@pytest.mark.parametrize(
    ("variant", "option", "value"),
    [
        ("v1", "pos_att_type", ["c2p"]),
        ("v1", "max_relative_positions", 5),
        ("v1", "position_biased_input", True),
        ("v1", "layer_norm_eps", 1e-12),
        ("v3", "position_buckets", 4),
        ("v3", "share_att_key", False),
        ("v3", "norm_rel_ebd", "none"),
        ("v2-convolution", "conv_act", "tanh"),
    ],
)
def test_the_fingerprint_sees_every_option_that_changes_outputs(
    variant: str, option: str, value: Any, tmp_path: Path
) -> None:
    before = BackboneSpec.load(write_deberta(tmp_path, variant)).fingerprint
    edit_config(tmp_path, **{option: value})
    assert BackboneSpec.load(tmp_path).fingerprint != before


def test_tensors_that_the_config_leaves_out_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    """Published files hold position embeddings that the model does not use, and names as task models have them."""
    wanted = BackboneSpec.load(write_deberta(tmp_path, "v1")).fingerprint
    path = tmp_path / "model.safetensors"
    tensors = {f"deberta.{name}": tensor for name, tensor in load_file(path).items()}
    tensors |= {"deberta.embeddings.position_embeddings.weight": torch.ones(3, 3), "pooler.dense.weight": torch.ones(3)}
    save_file(tensors, path, metadata={"format": "pt"})
    assert BackboneSpec.load(tmp_path).fingerprint == wanted


def test_a_pair_has_one_separator_whatever_the_file_says(tmp_path: Path) -> None:
    write_deberta(tmp_path / "v1", "v1")
    layout = Backbone.load(tmp_path / "v1", device="cpu").tokenizer.layout
    separator = vocabulary()["[SEP]"]
    assert (layout.middle, layout.end, layout.single_end) == ((separator,), (separator,), (separator,))


@pytest.mark.parametrize(("variant", "wanted"), [("v3", 0), ("v2-absolute", 1)])
def test_segments_count_where_the_model_has_embeddings_for_them(variant: str, wanted: int, tmp_path: Path) -> None:
    """The tokenizer file gives a pair's second part segment 1 in every case."""
    write_deberta(tmp_path, variant)
    write_tokenizer(tmp_path)
    backbone = Backbone.load(tmp_path, device="cpu")
    assert backbone.tokenizer.layout.pair_row((9,), (9,), 0).segment_ids == (0, 0, 0, wanted, wanted)
    fields = {"input_ids": [2, 9, 3], "token_type_ids": [0, 1, 1]}
    row = token_row(make_manifest(backbone.spec), backbone.spec, fields)
    assert row.segment_ids == (0, wanted, wanted)
    backbone.check(row)
