"""GLM (2021) against a slow obvious run of its layers: contexts, blanks, prefixes, packs."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefixrack.errors import InvalidRequest, PositionOutOfRange, UnsupportedBackbone
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.packing import Prompt
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import build_task
from tiny import make_manifest, random_arrays, write_backbone, write_glm2021

HEADS, WIDTH = 4, 32
IDS = (2, 9, 11, 6, 3, 14, 15)
PLACES, BLOCKS = (0, 1, 2, 3, 4, 2, 2), (0, 0, 0, 0, 0, 1, 2)
CONTEXT = 5
TOLERANCE = 1e-5
BLOCK_POSITIONS = "mixins.block_position_embedding.block_position_embeddings.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glm2021(tmp_path_factory.mktemp("glm"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, device="cpu")


def by_hand(folder: Path, row: Row, prefix: Tensor | None = None) -> Tensor:
    """One row, one head and one token at a time. `prefix` [layers, 2, heads, prefix_len, head_dim]."""
    w = load_file(folder / "model.safetensors")
    places, blocks = row.position_ids or (range(len(row)), [0] * len(row))
    states = w["transformer.word_embeddings.weight"][list(row.token_ids)]
    states = states + w["transformer.position_embeddings.weight"][list(places)] + w[BLOCK_POSITIONS][list(blocks)]
    for layer in range(2):
        name = f"transformer.layers.{layer}"
        normed = norm(w, f"{name}.input_layernorm", states)
        attended = attention(linear(w, f"{name}.attention.query_key_value", normed), row, prefix, layer)
        states = states + linear(w, f"{name}.attention.dense", attended)
        normed = norm(w, f"{name}.post_attention_layernorm", states)
        inner = F.gelu(linear(w, f"{name}.mlp.dense_h_to_4h", normed), approximate="tanh")
        states = states + linear(w, f"{name}.mlp.dense_4h_to_h", inner)
    return norm(w, "transformer.final_layernorm", states)


def norm(w: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    return F.layer_norm(states, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def linear(w: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    return states @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(joint: Tensor, row: Row, prefix: Tensor | None, layer: int) -> Tensor:
    size = WIDTH // HEADS
    output = torch.zeros(len(row), WIDTH)
    context = len(row) if row.context_len is None else row.context_len
    for head in range(HEADS):
        columns = slice(head * size, (head + 1) * size)
        query, key, value = (part[:, columns] for part in joint.split(WIDTH, dim=1))
        for token in range(len(row)):
            seen = [other for other in range(len(row)) if other < context or other <= token]
            keys, values = key[seen], value[seen]
            if prefix is not None:
                keys, values = torch.cat((prefix[layer, 0, head], keys)), torch.cat((prefix[layer, 1, head], values))
            weights = torch.softmax(keys @ query[token] / size**0.5, dim=0)
            output[token, columns] = weights @ values
    return output


def glm_row(length: int = len(IDS), context: int | None = CONTEXT) -> Row:
    return Row(IDS[:length], (0,) * length, 0, (PLACES[:length], BLOCKS[:length]), context)


def random_prefix(prefix_len: int) -> Tensor:
    return torch.randn(2, 2, HEADS, prefix_len, WIDTH // HEADS, generator=torch.Generator().manual_seed(prefix_len))


@torch.no_grad()
def test_any_pack_is_its_rows_by_hand(folder: Path, backbone: Backbone) -> None:
    rows = [glm_row(), Row(IDS, (0,) * 7, 0), glm_row(6, None), glm_row(), glm_row(7, 2)]
    prefixes = [random_prefix(3), None, random_prefix(8), None, random_prefix(3)]
    packed = backbone.hidden_states(rows, prefixes).split([len(row) for row in rows])
    for row, prefix, seen in zip(rows, prefixes, packed, strict=True):
        wanted = by_hand(folder, row, prefix)
        assert float((seen - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


@torch.no_grad()
def test_each_part_of_the_reference_matters(folder: Path) -> None:
    """The test above could not fail on what changes nothing."""
    row, prefix = glm_row(), random_prefix(3)
    plain = by_hand(folder, row, prefix)
    others = [by_hand(folder, row), by_hand(folder, glm_row(context=None), prefix)]
    others.append(by_hand(folder, Row(IDS, (0,) * 7, 0, (), CONTEXT), prefix))
    assert all(float((plain - other).abs().max()) > 1e-2 for other in others)


def adapter_of(backbone: Backbone, prefix_len: int = 3) -> Adapter:
    manifest = make_manifest(backbone.spec, task="text-embedding", prefix_len=prefix_len, positions="unmoved")
    arrays = random_arrays(manifest, WIDTH, seed=prefix_len)
    return Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("given", [6, 7, 8])
@torch.no_grad()
def test_a_blank_is_filled_from_left_to_right(folder: Path, backbone: Backbone, given: int) -> None:
    """However much of the answer the row already holds, each of its words is predicted from what is before it."""
    answer = [15, 16]
    whole, adapter = [*IDS[:6], *answer], adapter_of(backbone)
    positions = [[0, 1, 2, 3, 4, 2, 2, 2], [0, 0, 0, 0, 0, 1, 2, 3]]
    fields: dict[str, Any] = {"input_ids": whole[:given], "position_ids": [part[:given] for part in positions]}
    asked = fields | {"context_length": CONTEXT, "answer_ids": answer}
    other = {"input_ids": IDS[:4]}
    pooled, seen = backbone.logits([(adapter, other), (adapter, asked)])
    row = Row(tuple(whole[:7]), (0,) * 7, 0, (tuple(positions[0][:7]), tuple(positions[1][:7])), CONTEXT)
    states = by_hand(folder, row, adapter.prefix)[CONTEXT : CONTEXT + 2]
    wanted = (states @ load_file(folder / "model.safetensors")["transformer.word_embeddings.weight"].T).numpy()
    assert seen.shape == (2, backbone.spec.vocab_size)
    assert np.abs(seen - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    assert pooled.shape == (WIDTH,)


def cloze(**changes: Any) -> dict[str, Any]:
    positions = [PLACES[:6], BLOCKS[:6]]
    fields = {"input_ids": IDS[:6], "position_ids": positions, "context_length": CONTEXT, "answer_ids": [3, 4]}
    return fields | changes


def test_a_cloze_row_may_hold_arrays_and_all_of_its_positions(backbone: Backbone) -> None:
    adapter = adapter_of(backbone)
    whole = [[*PLACES[:6], PLACES[5]], [*BLOCKS[:6], BLOCKS[5] + 1]]
    arrays = {name: np.asarray(value) for name, value in cloze(position_ids=whole).items()}
    arrays |= {"context_length": np.int64(CONTEXT)}  # type: ignore[dict-item]
    seen, wanted = backbone.logits([(adapter, arrays), (adapter, cloze())])
    assert np.abs(seen - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("change", [{"context_length": None}, {"context_length": 6}, {"answer_ids": []}])
def test_a_cloze_row_without_its_parts_is_refused(backbone: Backbone, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="context_length"):
        backbone.logits([(adapter_of(backbone), cloze(**change))])


@pytest.mark.parametrize("positions", [None, [], [PLACES[:6]], [PLACES[:5], BLOCKS[:5]], [PLACES[:6], BLOCKS[:5]]])
def test_a_cloze_row_says_which_blank_it_fills(backbone: Backbone, positions: Any) -> None:
    with pytest.raises(InvalidRequest, match="which blank"):
        backbone.logits([(adapter_of(backbone), cloze(position_ids=positions))])


@pytest.mark.parametrize("context", [-1, 0, 8])
def test_a_context_that_the_row_has_no_place_for_is_refused(backbone: Backbone, context: int) -> None:
    with pytest.raises(InvalidRequest, match="context_length"):
        backbone.logits([(adapter_of(backbone), {"input_ids": IDS, "context_length": context})])


def test_other_families_take_no_context(tmp_path: Path) -> None:
    other = Backbone.load(write_backbone(tmp_path, "bert"), device="cpu")
    with pytest.raises(InvalidRequest, match=r"only GLM \(2021\)"):
        other.check(Row(IDS, (0,) * 7, 0, (), CONTEXT))


@torch.no_grad()
def test_a_soft_prompt_is_part_of_the_context(folder: Path, backbone: Backbone) -> None:
    """As words of the vocabulary in front of the row would be."""
    words = load_file(folder / "model.safetensors")["transformer.word_embeddings.weight"]
    extra = (17, 18)
    prompts = [Prompt(words[list(extra)], "once"), None]
    seen = backbone.hidden_states([glm_row(), glm_row(6)], [None, None], prompts)[: len(IDS) + 2]
    moved = ((0, 1, *(place + 2 for place in PLACES)), (0, 0, *BLOCKS))
    wanted = by_hand(folder, Row(extra + IDS, (0,) * 9, 0, moved, CONTEXT + 2))
    assert float((seen - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


def test_positions_leave_room_for_a_soft_prompt(backbone: Backbone) -> None:
    last = backbone.spec.max_positions - 1
    row = Row(IDS, (0,) * 7, 0, ((0,) * 6 + (last - 2,), (0,) * 6 + (last,)))
    backbone.check(row, 2)
    with pytest.raises(PositionOutOfRange, match="soft prompt"):
        backbone.check(row, 3)


@pytest.mark.parametrize(
    "positions", [((0,) * 7,), ((0,) * 6, (0,) * 6), ((0,) * 6 + (999,), (0,) * 7), ((0,) * 7, (0,) * 6 + (-1,))]
)
def test_positions_out_of_range_never_reach_the_model(
    backbone: Backbone, positions: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(PositionOutOfRange, match="position_ids"):
        backbone.check(Row(IDS, (0,) * 7, 0, positions))


def test_the_layout_tells_it_from_the_newer_glm(folder: Path) -> None:
    spec = BackboneSpec.load(folder)
    assert (spec.architecture, spec.num_layers, spec.num_kv_heads, spec.head_dim) == ("glm-2021", 2, HEADS, 8)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "glm"


def test_without_a_tokenizer_it_takes_token_ids_only(tmp_path: Path) -> None:
    backbone = Backbone.load(write_glm2021(tmp_path / "glm", has_tokenizer=False), device="cpu")
    adapter = adapter_of(backbone)
    assert np.isfinite(backbone.logits([(adapter, {"input_ids": IDS})])[0]).all()
    with pytest.raises(UnsupportedBackbone, match=r"no tokenizer\.json.*token ids only"):
        build_task(adapter.manifest, backbone.spec, backbone.tokenizer)


def test_loads_from_shards_and_in_other_dtypes(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"model-{index % 2}.safetensors" for index, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    whole, sharded = Backbone.load(folder, device="cpu"), Backbone.load(tmp_path, device="cpu")
    assert whole.spec.fingerprint == sharded.spec.fingerprint
    row = glm_row()
    with torch.no_grad():
        wanted = whole.hidden_states([row], [None])
        assert torch.equal(wanted, sharded.hidden_states([row], [None]))
        half = Backbone.load(tmp_path, device="cpu", dtype="bfloat16").hidden_states([row], [None])
    assert half.dtype is torch.bfloat16
    assert float(F.cosine_similarity(half.float(), wanted, dim=-1).min()) > 0.98


def rank_file(folder: Path, target: Path, rank: int = 0, **beside: object) -> Path:
    """The same model as the tool's own checkpoint, a head and a prefix among its tensors."""
    (target / "200").mkdir(parents=True, exist_ok=True)
    (target / "latest").write_text("200\n")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    own = {"mixins.ptuning.prefix.0": torch.ones(2, 2), "mixins.head.layers.0.weight": torch.ones(1, WIDTH)}
    state = {"module": load_file(folder / "model.safetensors") | own, "iteration": 200} | beside
    torch.save(state, target / "200" / f"mp_rank_{rank:02d}_model_states.pt")
    return target


@torch.no_grad()
def test_loads_from_the_tools_own_checkpoint(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    seen = Backbone.load(rank_file(folder, tmp_path), device="cpu")
    assert seen.spec.fingerprint == backbone.spec.fingerprint
    assert torch.equal(seen.hidden_states([glm_row()], [None]), backbone.hidden_states([glm_row()], [None]))


def test_a_checkpoint_folder_of_the_tool_is_enough(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    """Its config lies beside the checkpoint and leaves out what is as usual."""
    rank_file(folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    names = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length", "layernorm_order")
    told = {name: config[name] for name in names} | {"model_class": "GLMModel", "tokenizer_type": "glm_GPT2BPE"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "model_config.json").write_text(json.dumps(told | {"inner_hidden_size": config["inner_hidden_size"]}))
    assert Backbone.load(tmp_path, device="cpu").spec.fingerprint == backbone.spec.fingerprint
    (tmp_path / "model_config.json").write_text(json.dumps(told | {"is_gated_mlp": True}))
    with pytest.raises(UnsupportedBackbone, match="is_gated_mlp True: only False is supported"):
        Backbone.load(tmp_path, device="cpu")


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "glm."])
def test_the_form_of_the_models_on_the_hub_is_the_same_model(tmp_path: Path, prefix: str) -> None:
    """`modeling_glm.py` beside THUDM/glm-10b names the tensors so, and makes tables of a position more than it says."""
    folder = write_glm2021(tmp_path / "tool", inner_hidden_size=4 * WIDTH, has_tokenizer=False)
    names = {"transformer.word_embeddings.weight": "word_embeddings.weight"}
    names[BLOCK_POSITIONS] = "transformer.block_position_embeddings.weight"
    stored = load_file(folder / "model.safetensors")
    hub = tmp_path / "hub"
    hub.mkdir()
    torch.save({prefix + names.get(name, name): one for name, one in stored.items()}, hub / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    kept = ("hidden_size", "num_layers", "num_attention_heads", "vocab_size")
    told = {name: config[name] for name in kept} | {"max_sequence_length": config["max_sequence_length"] - 1}
    told |= {"architectures": ["GLMModel"], "model_type": "glm", "block_position_encoding": True, "spell_length": None}
    (hub / "config.json").write_text(json.dumps(told | {"relative_encoding": False, "attention_scale": 1.0}))
    seen, wanted = Backbone.load(hub, device="cpu"), Backbone.load(folder, device="cpu")
    assert (seen.spec.fingerprint, seen.spec.max_positions) == (wanted.spec.fingerprint, wanted.spec.max_positions)
    assert torch.equal(seen.hidden_states([glm_row()], [None]), wanted.hidden_states([glm_row()], [None]))


def test_parts_of_several_ranks_are_refused(folder: Path, tmp_path: Path) -> None:
    rank_file(folder, tmp_path, 0)
    rank_file(folder, tmp_path, 1)
    with pytest.raises(UnsupportedBackbone, match=r"2 model-parallel ranks.*merge"):
        Backbone.load(tmp_path, device="cpu")


def test_a_checkpoint_with_objects_in_it_is_not_opened(folder: Path, tmp_path: Path) -> None:
    rank_file(folder, tmp_path, args=Namespace(num_layers=2))
    with pytest.raises(UnsupportedBackbone, match="not a file of plain tensors"):
        Backbone.load(tmp_path, device="cpu")


@pytest.mark.parametrize(("change", "message"), [({"num_layers": 3}, "lacks"), ({"inner_hidden_size": 40}, "in shape")])
def test_files_that_do_not_fit_the_config_are_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    folder = write_glm2021(tmp_path / "glm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UnsupportedBackbone, match=message):
        Backbone.load(folder, device="cpu")


def test_another_order_of_normalisation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackbone, match="layernorm_order 'post'"):
        Backbone.load(write_glm2021(tmp_path / "glm", layernorm_order="post"), device="cpu")


def test_a_prefix_can_be_trained_through_it(backbone: Backbone) -> None:
    prefix = random_prefix(3).requires_grad_()
    backbone.hidden_states([glm_row()], [prefix])[-1].sum().backward()
    assert prefix.grad is not None
    assert float(prefix.grad.abs().sum()) > 0
