"""What embeddings train on: pairs of texts that belong together, or pairs with a score of how alike they are.

Pairs without scores: every other second text of the batch is a wrong partner (in-batch negatives; van den Oord et al.,
arXiv 1807.03748, and as dense retrievers use it, Karpukhin et al., arXiv 2004.04906). Pairs with scores: pairs of
pairs are ranked by their cosines as by their scores (CoSENT; Su 2022, https://kexue.fm/archives/8847).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixrack.errors import InputFault
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks import Prepared
from prefixrack_adapters.training.data import Example, Similarity
from prefixrack_adapters.training.objectives import Head, Item, Objective, Spans

SCALE = 20.0  # of cosines: the inverse of a temperature of 0.05


class ContrastiveObjective(Objective):
    """An item has the two rows of a pair. Which of the two losses a batch has is told by its targets."""

    is_divisible: ClassVar[bool] = False  # every pair is held against all others of its batch

    def prepare(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """A pair of prepared texts, or the fault of the first faulty one, for each pair of inputs."""
        flat = super().prepare([text for pair in inputs for text in pair])
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [next((one for one in pair if isinstance(one, InputFault)), pair) for pair in pairs]

    def encode(self, prepared: tuple[Prepared, Prepared], example: Example) -> list[tuple[tuple[Row, ...], Any]]:
        target = example.target
        assert isinstance(target, Similarity), "the reader of embedding data makes nothing else"
        return [(tuple(row for one in prepared for row in one.rows), target.score)]

    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], head: Head) -> Tensor:
        vectors = F.normalize(head(self.pooled(hidden, spans)), dim=-1)
        left, right = vectors[::2], vectors[1::2]
        if items[0].target is None:
            return in_batch_loss(left, right, items)
        return ranking_loss((left * right).sum(dim=-1), [item.target for item in items])


def in_batch_loss(left: Tensor, right: Tensor, items: Sequence[Item]) -> Tensor:
    """Cross entropy of finding the partner among all second texts. A second text that stands twice is no negative."""
    scores = SCALE * left @ right.T
    seconds = [item.rows[1].token_ids for item in items]
    same = torch.tensor([[one == other for other in seconds] for one in seconds], device=scores.device)
    same.fill_diagonal_(False)
    return F.cross_entropy(scores.masked_fill(same, float("-inf")), torch.arange(len(items), device=scores.device))


def ranking_loss(cosines: Tensor, scores: Sequence[float]) -> Tensor:
    """log(1 + Σ exp(cosine of the less alike - cosine of the more alike)) over all pairs of pairs."""
    gold = torch.tensor(scores, device=cosines.device)
    differences = SCALE * (cosines[:, None] - cosines[None, :])
    wrong = differences.masked_fill(gold[:, None] >= gold[None, :], float("-inf"))
    return torch.logsumexp(torch.cat((wrong.flatten(), wrong.new_zeros(1))), dim=0)
