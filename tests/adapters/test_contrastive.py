"""Embedding objectives: partners are told from the batch's other texts, scored pairs are ranked by their cosines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prefixrack.types import EmbeddingOutput
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import TENSORS_FILE, read_tensors
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.rows import Row
from prefixrack_adapters.training.contrastive import SCALE, in_batch_loss, ranking_loss
from prefixrack_adapters.training.data import read_examples
from prefixrack_adapters.training.model import PromptModel
from prefixrack_adapters.training.objectives import Item
from prefixrack_adapters.training.run import run_training
from synthetic import MakeSettings, Record, alike, partners
from training_parts import loss_and_gradients, model_of


def units(rows: int, seed: int) -> Tensor:
    vectors = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
    return F.normalize(vectors)


def pairs(seconds: Sequence[int]) -> list[Item]:
    """Pairs whose second text is told by its token."""
    return [Item((Row((1,), (0,), 0), Row((token,), (0,), 0)), None) for token in seconds]


def test_every_other_second_text_is_a_wrong_partner() -> None:
    left, right = units(4, 1), units(4, 2)
    expected = 0.0
    for i in range(4):
        scores = [SCALE * float(left[i] @ right[j]) for j in range(4)]
        expected -= scores[i] - math.log(sum(map(math.exp, scores)))
    assert in_batch_loss(left, right, pairs([5, 6, 7, 8])).item() == pytest.approx(expected / 4, rel=1e-5)


def test_a_second_text_that_stands_twice_is_no_wrong_partner() -> None:
    left, right = units(3, 1), units(3, 2)
    right[2] = right[0]
    expected = 0.0
    for i, wrong in enumerate([[1], [0, 2], [1]]):
        scores = [SCALE * float(left[i] @ right[j]) for j in [i, *wrong]]
        expected -= scores[0] - math.log(sum(map(math.exp, scores)))
    assert in_batch_loss(left, right, pairs([5, 6, 5])).item() == pytest.approx(expected / 3, rel=1e-5)


def test_a_pair_alone_has_no_wrong_partner_and_costs_nothing() -> None:
    assert in_batch_loss(units(1, 1), units(1, 2), pairs([5])).item() == 0


def test_less_alike_pairs_cost_by_how_far_they_are_above_more_alike_ones() -> None:
    cosines, scores = torch.tensor([0.9, 0.1, 0.5, 0.2]), [0.0, 1.0, 0.5, 0.5]
    total = 1.0
    for i in range(4):
        for j in range(4):
            if scores[i] < scores[j]:
                total += math.exp(SCALE * (cosines[i].item() - cosines[j].item()))
    assert ranking_loss(cosines, scores).item() == pytest.approx(math.log(total), rel=1e-5)


def test_pairs_of_one_score_have_no_order_to_learn() -> None:
    assert ranking_loss(torch.tensor([0.9, 0.1]), [0.5, 0.5]).item() == 0


def embedded(model: PromptModel, row: Row) -> Tensor:
    assert model.encoder is not None
    vector = model.backbone.hidden_states([row], [model.encoder()])[0]
    return F.normalize(vector, dim=0)


@pytest.mark.parametrize("record", [alike, partners])
def test_a_batch_costs_what_its_texts_cost_embedded_one_by_one(
    make_settings: MakeSettings, backbone: Backbone, record: Record
) -> None:
    model, (items,) = model_of(backbone, [make_settings("text-embedding", record)])
    batch = items[:7]
    left, right = (torch.stack([embedded(model, item.rows[side]) for item in batch]) for side in (0, 1))
    if record is partners:
        expected = in_batch_loss(left, right, batch)
    else:
        expected = ranking_loss((left * right).sum(dim=1), [item.target for item in batch])
    loss, gradients = loss_and_gradients(model, batch, 10_000)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    model.zero_grad()
    expected.backward()
    for name, part in model.named_parameters():
        torch.testing.assert_close(gradients[name], part.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("record", "main"), [(alike, "spearman"), (partners, "mrr")])
def test_a_run_learns_and_its_bundle_scores_what_it_reports(
    make_settings: MakeSettings, backbone: Backbone, record: Record, main: str
) -> None:
    settings = make_settings("text-embedding", record, epochs=3, pooling="mean_tokens", backbone_dropout=False)
    report = run_training(settings)
    assert report.main == main
    assert report.scores[main] > max(0.5, report.without_prefix[main])
    losses = [entry["loss"] for entry in report.log if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    adapter = Adapter.load(settings.output)
    assert set(read_tensors(settings.output / TENSORS_FILE)) == {"prefix"}
    again = evaluate(backbone, adapter, read_examples(settings.dev_file, "text-embedding", {}))
    assert again.scores == pytest.approx(report.scores, abs=1e-6)
    (vector,) = backbone.predict(adapter, adapter.manifest.example)
    assert isinstance(vector, EmbeddingOutput)
    assert math.hypot(*vector.embedding) == pytest.approx(1)
