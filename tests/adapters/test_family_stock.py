"""Every family that runs a stock model with packed attention, against stock transformers and a loop over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, DynamicCache

from by_hand import ByHand
from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.packing import Prompt
from prefixrack_adapters.rows import Row
from tiny import DECODERS, write_backbone

ENCODERS = ("albert", "bert", "distilbert", "electra", "modernbert", "xlm-roberta")
WINDOW = 8  # of every tiny backbone that has one
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


class Asked(NamedTuple):
    """A row and what goes in front of it."""

    row: Row
    prefix: Prefix | None = None
    prompt: Prompt | None = None


def roughened(folder: Path) -> Path:
    """Stock models start with zero biases and equal norms, under which a misplaced one would not show."""
    model = AutoModel.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def write_rough(folder: Path, family: str, **options: Any) -> Path:
    return roughened(write_backbone(folder, family, **options))


@pytest.fixture(scope="module", params=[*ENCODERS, *DECODERS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rough(tmp_path_factory.mktemp("backbone"), request.param)


@pytest.fixture(scope="module", params=DECODERS)
def decoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without windows: a stock cache counts the prefix as part of them."""
    options = {"use_sliding_window": False} if request.param.startswith("qwen") else {}
    return write_rough(tmp_path_factory.mktemp("decoder"), request.param, **options)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder, device="cpu")


def make_row(backbone: Backbone, row_len: int, prefix_len: int = 0) -> Row:
    ids = tuple(5 + (7 * index + row_len) % 60 for index in range(row_len))
    return Row(ids, (0,) * row_len, backbone.spec.first_position(prefix_len, "after_prefix"))


def make_prefix(backbone: Backbone, prefix_len: int, seed: int = 0) -> Tensor:
    spec, generator = backbone.spec, torch.Generator().manual_seed(seed)
    return torch.randn(spec.num_layers, 2, spec.num_kv_heads, prefix_len, spec.head_dim, generator=generator)


def make_prompt(backbone: Backbone, prompt_len: int, seed: int = 0) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return Prompt(torch.randn(prompt_len, backbone.spec.embedding_size, generator=generator), "once")


def mixed_pack(backbone: Backbone) -> list[Asked]:
    """Short and long rows behind prefixes of many lengths, a soft prompt and nothing; some share a prefix."""
    shared = make_prefix(backbone, 7, seed=1)
    deep = [(3, None), (2 * WINDOW, shared), (2 * WINDOW, shared), (40, make_prefix(backbone, 128)), (1, shared)]
    asked = [Asked(make_row(backbone, length, 0 if one is None else one.shape[-2]), one) for length, one in deep]
    return [*asked, Asked(make_row(backbone, 30)), Asked(make_row(backbone, 9), None, make_prompt(backbone, 5))]


def packed_states(backbone: Backbone, asked: Sequence[Asked]) -> list[Tensor]:
    rows, prefixes, prompts = zip(*asked, strict=True)
    sizes = [len(row) + (0 if prompt is None else len(prompt.vectors)) for row, _, prompt in asked]
    return list(backbone.hidden_states(rows, prefixes, prompts).split(sizes))


def by_hand(model: ByHand, asked: Asked) -> Tensor:
    words = model.words(asked.row.token_ids)
    if asked.prompt is not None:
        words = torch.cat((asked.prompt.vectors, words))
    return model.states(words, asked.row.first_position, asked.prefix)


@pytest.mark.parametrize("stock_attention", ["eager", "sdpa"])
@torch.no_grad()
def test_without_a_prefix_it_is_stock_transformers(backbone: Backbone, folder: Path, stock_attention: str) -> None:
    model = AutoModel.from_pretrained(folder, attn_implementation=stock_attention).eval()
    rows = [make_row(backbone, length) for length in (3 * WINDOW, 1, 60)]
    for row, packed in zip(rows, packed_states(backbone, [Asked(row) for row in rows]), strict=True):
        stock = model(torch.tensor([row.token_ids])).last_hidden_state[0]
        torch.testing.assert_close(packed, stock, **CLOSE)


@torch.no_grad()
def test_a_mixed_pack_is_the_loop_over_tokens(backbone: Backbone, folder: Path) -> None:
    model, pack = ByHand(folder), mixed_pack(backbone)
    for asked, packed in zip(pack, packed_states(backbone, pack), strict=True):
        torch.testing.assert_close(packed, by_hand(model, asked), **CLOSE)


@torch.no_grad()
def test_a_row_is_the_same_alone_and_in_any_order(backbone: Backbone) -> None:
    pack = mixed_pack(backbone)[2:]
    alone = [packed_states(backbone, [asked])[0] for asked in pack]
    for order in list(permutations(range(len(pack))))[::17]:
        packed = packed_states(backbone, [pack[index] for index in order])
        for index, states in zip(order, packed, strict=True):
            torch.testing.assert_close(states, alone[index], **CLOSE)


@torch.no_grad()
def test_a_layer_may_have_no_prefix(backbone: Backbone, folder: Path) -> None:
    prefix = [None, *make_prefix(backbone, 6)[1:]]
    pack = [Asked(make_row(backbone, 4)), Asked(make_row(backbone, 20), prefix), Asked(make_row(backbone, 5))]
    torch.testing.assert_close(packed_states(backbone, pack)[1], by_hand(ByHand(folder), pack[1]), **CLOSE)


@torch.no_grad()
def test_a_prompt_joins_embedded_words_where_it_was_trained_so(backbone: Backbone, folder: Path) -> None:
    row, prompt, model = make_row(backbone, 12), make_prompt(backbone, 5), ByHand(folder)
    embedded = embedded_words(backbone, row)
    wanted = model.states(torch.cat((prompt.vectors, embedded)), row.first_position)
    pack = [Asked(make_row(backbone, 3)), Asked(row, None, prompt._replace(embedding="twice"))]
    torch.testing.assert_close(packed_states(backbone, pack)[1], wanted, **CLOSE)


@pytest.mark.parametrize("family", ["distilbert", "modernbert", *DECODERS])
@torch.no_grad()
def test_embedded_words_are_the_first_hidden_states(tmp_path: Path, family: str) -> None:
    folder = write_rough(tmp_path, family)
    backbone, stock = Backbone.load(folder, device="cpu"), AutoModel.from_pretrained(folder).eval()
    row = make_row(backbone, 12)
    output = stock(torch.tensor([row.token_ids]), output_hidden_states=True)
    torch.testing.assert_close(embedded_words(backbone, row), output.hidden_states[0][0], **CLOSE)


def embedded_words(backbone: Backbone, row: Row) -> Tensor:
    words = backbone.family.words(torch.tensor(row.token_ids))
    positions = torch.arange(row.first_position, row.first_position + len(row))
    return backbone.family.embed(words, torch.tensor(row.segment_ids), positions)


def test_gradients_reach_prefixes_and_prompts(backbone: Backbone, folder: Path) -> None:
    model = ByHand(folder)
    prefix, prompt = make_prefix(backbone, 6).requires_grad_(), make_prompt(backbone, 5)
    prompt.vectors.requires_grad_()
    leaves = (prefix, prompt.vectors)
    pack = [
        Asked(make_row(backbone, 20, 6), prefix),
        Asked(make_row(backbone, 9), None, prompt),
        Asked(make_row(backbone, 3, 6), prefix),
    ]
    packed = torch.autograd.grad(_loss(packed_states(backbone, pack)), leaves)
    wanted = torch.autograd.grad(_loss([by_hand(model, asked) for asked in pack]), leaves)
    for one, other in zip(packed, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def _loss(states: Sequence[Tensor]) -> Tensor:
    """Different for every state: a plain sum would be blind to swapped tokens."""
    rows = torch.cat(list(states))
    return (rows * torch.sin(torch.arange(rows.numel())).view_as(rows)).sum()


@pytest.mark.parametrize("prefix_len", [1, 8, 128])
@torch.no_grad()
def test_a_decoder_with_a_prefix_is_a_stock_model_with_a_cache(decoder_folder: Path, prefix_len: int) -> None:
    """The stock classifier, its cache made anew for every row, answers from the last token."""
    backbone = Backbone.load(decoder_folder, device="cpu")
    stock = AutoModelForSequenceClassification.from_pretrained(decoder_folder, num_labels=3).eval()
    prefix = make_prefix(backbone, prefix_len, seed=2)
    rows = [make_row(backbone, length, prefix_len) for length in (5, 33, 1)]
    others = [Asked(make_row(backbone, 4)), Asked(make_row(backbone, 6, 3), make_prefix(backbone, 3))]
    packed = packed_states(backbone, [*others, *(Asked(row, prefix) for row in rows)])[2:]
    for row, states in zip(rows, packed, strict=True):
        cache = DynamicCache([(key[None], value[None]) for key, value in prefix])
        wanted = stock(torch.tensor([row.token_ids]), past_key_values=cache).logits[0]
        torch.testing.assert_close(stock.score(states[-1]), wanted, **CLOSE)


@torch.no_grad()
def test_gpt2_scales_by_the_layer_where_its_config_says_so(tmp_path: Path) -> None:
    folder = write_rough(tmp_path, "gpt2", scale_attn_by_inverse_layer_idx=True)
    backbone = Backbone.load(folder, device="cpu")
    row = make_row(backbone, 20)
    stock = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    wanted = stock(torch.tensor([row.token_ids])).last_hidden_state[0]
    torch.testing.assert_close(packed_states(backbone, [Asked(row)])[0], wanted, **CLOSE)


@torch.no_grad()
def test_bfloat16_stays_near_float32(backbone: Backbone, folder: Path) -> None:
    half = Backbone.load(folder, device="cpu", dtype="bfloat16")
    pack = mixed_pack(backbone)[:4]
    in_half = [asked._replace(prefix=as_bfloat16(asked.prefix)) for asked in pack]
    for wide, narrow in zip(packed_states(backbone, pack), packed_states(half, in_half), strict=True):
        assert narrow.dtype == torch.bfloat16
        similarity = torch.nn.functional.cosine_similarity(wide, narrow.float(), dim=-1)
        assert similarity.mean() > 0.98


def as_bfloat16(prefix: Prefix | None) -> Prefix | None:
    return prefix.bfloat16() if isinstance(prefix, Tensor) else prefix
