"""Objectives: what each task trains on. Examples → rows with targets; hidden states → loss. Same rows as serving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixrack.errors import InputFault
from prefixrack.types import Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks import AnyTask, Prepared
from prefixrack_adapters.tasks.question_answering import PreparedContext
from prefixrack_adapters.tasks.token_classification import PreparedWords
from prefixrack_adapters.training.data import Example, GoldAnswers

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Item:
    """One example ready to train on: its rows, and the target in the objective's own form."""

    rows: tuple[Row, ...]
    target: Any


class Objective(ABC):
    """Knows one task's targets and loss. `num_skipped` counts examples that cannot be trained on (empty texts)."""

    overlong = "truncate"

    def __init__(self, manifest: Manifest, task: AnyTask) -> None:
        self.manifest = manifest
        self.task = task
        self.index_of = {label: index for index, label in enumerate(manifest.labels)}
        self.num_skipped = 0

    def items(self, examples: Sequence[Example]) -> list[Item]:
        prepared = self.task.prepare_many([one.input for one in examples], Parameters(overlong=self.overlong))
        items = []
        for one, example in zip(prepared, examples, strict=True):
            if isinstance(one, InputFault):
                self.num_skipped += 1
            else:
                items.extend(self.encode(one, example))
        return items

    @abstractmethod
    def encode(self, prepared: Any, example: Example) -> list[Item]:
        """Items of one example: usually one; one per window where windows are trained on separately."""

    @abstractmethod
    def loss(self, hidden: Tensor, items: Sequence[Item], head: Head) -> Tensor:
        """Mean loss of a batch. `hidden` [T, hidden_size] holds the rows of the items end to end."""


def row_starts(items: Sequence[Item]) -> list[int]:
    """Index in the pack of each row's first token, one more at the end."""
    return [0, *accumulate(len(row) for item in items for row in item.rows)]


def first_states(hidden: Tensor, items: Sequence[Item]) -> Tensor:
    return hidden[torch.tensor(row_starts(items)[:-1], device=hidden.device)]


class TextObjective(Objective):
    """Cross entropy for one label, binary cross entropy for several, squared error for a number."""

    def encode(self, prepared: Prepared, example: Example) -> list[Item]:
        return [Item(prepared.rows, self._target(example))]

    def _target(self, example: Example) -> Any:
        match self.manifest.decoding.problem:
            case "regression":
                return [float(example.target)]  # type: ignore[arg-type]
            case "multi_label":
                several = set(example.target)  # type: ignore[arg-type]
                return [float(label in several) for label in self.manifest.labels]
        return self.index_of[example.target]  # type: ignore[index]

    def loss(self, hidden: Tensor, items: Sequence[Item], head: Head) -> Tensor:
        logits = head(first_states(hidden, items))
        target = torch.tensor([item.target for item in items], device=hidden.device)
        match self.manifest.decoding.problem:
            case "regression":
                return F.mse_loss(logits, target)
            case "multi_label":
                return F.binary_cross_entropy_with_logits(logits, target)
        return F.cross_entropy(logits, target)


class TokenObjective(Objective):
    """Cross entropy at the first token of every word, read from the window where it has most context."""

    overlong = "window"

    def encode(self, prepared: PreparedWords, example: Example) -> list[Item]:
        tags: Sequence[str] = example.target  # type: ignore[assignment]
        places = [(place, tag) for place, tag in zip(prepared.places, tags, strict=True) if place is not None]
        target = [(row, index, self.index_of[tag]) for (row, index), tag in places]
        return [Item(prepared.rows, target)]

    def loss(self, hidden: Tensor, items: Sequence[Item], head: Head) -> Tensor:
        starts = iter(row_starts(items))
        picks: list[int] = []
        labels: list[int] = []
        for item in items:
            row_start = [next(starts) for _ in item.rows]
            picks.extend(row_start[row] + index for row, index, _ in item.target)
            labels.extend(label for _, _, label in item.target)
        logits = head(hidden[torch.tensor(picks, device=hidden.device)])
        return F.cross_entropy(logits, torch.tensor(labels, device=hidden.device))


class AnswerObjective(Objective):
    """Cross entropy of start and end over the row; a window without the answer points at token 0 (no answer).

    Each window is an item of its own, as in the original code.
    """

    overlong = "window"

    def encode(self, prepared: PreparedContext, example: Example) -> list[Item]:
        gold: GoldAnswers = example.target  # type: ignore[assignment]
        span = answer_tokens(prepared, gold)
        items = []
        for row, (start, end) in zip(prepared.rows, prepared.ranges, strict=True):
            is_inside = span is not None and start <= span[0] and span[1] < end
            shift = prepared.first - start
            target = (span[0] + shift, span[1] + shift) if span is not None and is_inside else (0, 0)
            items.append(Item((row,), target))
        return items

    def loss(self, hidden: Tensor, items: Sequence[Item], head: Head) -> Tensor:
        lengths = [len(item.rows[0]) for item in items]
        rows = head(hidden).split(lengths)
        logits = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=float("-inf"))
        target = torch.tensor([item.target for item in items], device=hidden.device)
        start_loss = F.cross_entropy(logits[..., 0], target[:, 0])
        return (start_loss + F.cross_entropy(logits[..., 1], target[:, 1])) / 2


def answer_tokens(prepared: PreparedContext, gold: GoldAnswers) -> tuple[int, int] | None:
    """First and last context token of the first acceptable answer; None where there is none."""
    if not gold.texts:
        return None
    start = gold.starts[0]
    end = start + len(gold.texts[0])
    touched = [index for index, (left, right) in enumerate(prepared.offsets) if left < end and right > start]
    return (touched[0], touched[-1]) if touched else None


class ChoiceObjective(Objective):
    """Cross entropy over the scores of one example's choices, however many it has."""

    def encode(self, prepared: Prepared, example: Example) -> list[Item]:
        return [Item(prepared.rows, int(example.target))]  # type: ignore[arg-type]

    def loss(self, hidden: Tensor, items: Sequence[Item], head: Head) -> Tensor:
        scores = head(first_states(hidden, items))[:, 0].split([len(item.rows) for item in items])
        logits = torch.nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=float("-inf"))
        return F.cross_entropy(logits, torch.tensor([item.target for item in items], device=hidden.device))


OBJECTIVES: dict[str, type[Objective]] = {
    "text-classification": TextObjective,
    "token-classification": TokenObjective,
    "question-answering": AnswerObjective,
    "multiple-choice": ChoiceObjective,
}
