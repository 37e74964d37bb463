"""Soft prompts in a pack against stock transformers, and where heads read their states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.heads import Gather, Head
from prefixrack_adapters.packing import Prompt, RowSpan, gather_states, packs_of, row_spans
from prefixrack_adapters.rows import Row
from tiny import write_backbone

IDS = (2, 9, 11, 6, 3)
SEGMENTS = (0, 0, 0, 1, 1)
PROMPT_LEN = 3
HIDDEN = torch.arange(20, dtype=torch.float32).reshape(10, 2)
SPANS = [RowSpan(0, 3, 2), RowSpan(5, 0, 5)]


@pytest.fixture(params=["bert", "roberta", "electra"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_backbone(tmp_path / request.param, request.param)


def stock_states(folder: Path, vectors: Tensor, is_embedded_first: bool) -> Tensor:
    """One row behind its prompt, through the stock model and its own positions; segments only where the words are."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    segments = torch.tensor([SEGMENTS]) % model.config.type_vocab_size
    words = model.get_input_embeddings()(torch.tensor([IDS]))
    if is_embedded_first:
        words = model.embeddings(inputs_embeds=words, token_type_ids=segments)
        segments = torch.zeros_like(segments)
    segments = torch.cat((torch.zeros(1, PROMPT_LEN, dtype=torch.long), segments), dim=1)
    output = model(inputs_embeds=torch.cat((vectors[None], words), dim=1), token_type_ids=segments)
    states: Tensor = output.last_hidden_state[0]
    return states


@pytest.mark.parametrize("embedding", ["once", "twice"])
@torch.no_grad()
def test_a_soft_prompt_is_what_stock_transformers_makes_of_it(folder: Path, embedding: str) -> None:
    backbone = Backbone.load(folder, device="cpu")
    spec = backbone.spec
    vectors = torch.randn(PROMPT_LEN, spec.embedding_size, generator=torch.Generator().manual_seed(3))
    segments = tuple(segment % spec.num_segments for segment in SEGMENTS)
    row, other = Row(IDS, segments, spec.base_position), Row(IDS[:3], segments[:3], spec.base_position)
    prompts = [None, Prompt(vectors, embedding), None]  # type: ignore[arg-type]
    packed = backbone.hidden_states([other, row, other], [None] * 3, prompts)
    wanted = stock_states(folder, vectors, embedding == "twice")
    assert torch.allclose(packed[3:-3], wanted, atol=1e-5)
    alone = backbone.hidden_states([other], [None])
    assert torch.allclose(packed[:3], alone, atol=1e-5)
    assert torch.allclose(packed[-3:], alone, atol=1e-5)


@pytest.mark.parametrize("embedding", ["none", "once", "twice"])
@torch.no_grad()
def test_robertas_padding_as_a_word_of_a_text_takes_no_position(tmp_path: Path, embedding: str) -> None:
    """Stock positions follow from ids where there are any; of bare vectors every one counts."""
    folder, ids = write_backbone(tmp_path, "roberta"), (2, 9, 1, 1, 11, 1, 3)
    backbone = Backbone.load(folder, device="cpu")
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    vectors = torch.randn(PROMPT_LEN, backbone.spec.embedding_size, generator=torch.Generator().manual_seed(3))
    tokens, mask = torch.tensor([ids]), torch.ones(1, len(ids))
    if embedding == "none":
        wanted = model(input_ids=tokens, attention_mask=mask).last_hidden_state[0]
    else:
        words = model.embeddings(tokens) if embedding == "twice" else model.get_input_embeddings()(tokens)
        wanted = model(inputs_embeds=torch.cat((vectors[None], words), dim=1)).last_hidden_state[0]
    prompt = None if embedding == "none" else Prompt(vectors, embedding)  # type: ignore[arg-type]
    row, other = Row(ids, (0,) * len(ids), 2), Row((2, 5, 3), (0,) * 3, 2)
    packed = backbone.hidden_states([other, row], [None] * 2, [None, prompt])
    assert torch.allclose(packed[3:], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("gather", "wanted"),
    [
        ("first_token", [[6, 7], [10, 11]]),
        ("last_token", [[8, 9], [18, 19]]),
        ("first_position", [[0, 1], [10, 11]]),
        ("mean_tokens", [[7, 8], [14, 15]]),
        ("mean_positions", [[4, 5], [14, 15]]),
    ],
)
def test_pooled_heads_read_one_state_of_each_row(gather: Gather, wanted: list[list[float]]) -> None:
    states, lengths = gather_states(HIDDEN, SPANS, Head(gather, []))
    assert states.tolist() == wanted
    assert lengths == [1, 1]


@pytest.mark.parametrize(("gather", "first"), [("every_token", [6, 7]), ("every_position", [0, 1])])
def test_token_heads_read_as_many_states_as_there_are_tokens(gather: Gather, first: list[float]) -> None:
    states, lengths = gather_states(HIDDEN, SPANS, Head(gather, []))
    assert states[0].tolist() == first
    assert states[lengths[0] :].tolist() == HIDDEN[5:].tolist()
    assert lengths == [2, 5]


def test_rows_lie_end_to_end_with_their_prompts() -> None:
    rows = [Row((1, 2), (0, 0), 0), Row((1, 2, 3, 4, 5), (0,) * 5, 0)]
    assert row_spans(rows, [Prompt(torch.zeros(3, 4), "once"), None]) == SPANS


def test_packs_keep_the_order_and_the_budget() -> None:
    rows = [Row((1,) * length, (0,) * length, 0) for length in (4, 3, 9, 2, 1)]
    assert list(packs_of(rows, [0, 1, 2, 3, 4], 7)) == [[0, 1], [2], [3, 4]]
