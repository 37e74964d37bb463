"""Objectives: what each task trains on. Examples → rows with targets; hidden states → loss. Same rows as serving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from prefixrack.errors import InputFault
from prefixrack.types import Overlong, Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.packing import RowSpan, gather_by, picked
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks import AnyTask, Prepared
from prefixrack_adapters.tasks.candidate_classification import PreparedCandidates
from prefixrack_adapters.tasks.question_answering import PreparedContext
from prefixrack_adapters.tasks.token_classification import PreparedWords
from prefixrack_adapters.training.data import CandidateLabels, Example, GoldAnswers
from prefixrack_adapters.transfer import to_device

Head = Callable[[Tensor], Tensor]
Spans = Sequence[Sequence[RowSpan]]
"""Where the rows of each item lie in the pack."""


@dataclass(frozen=True, slots=True)
class Item:
    """One example ready to train on: its rows, the target in the objective's own form, and whose item it is."""

    rows: tuple[Row, ...]
    target: Any
    part: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(row) for row in self.rows)


class Objective(ABC):
    """Knows one task's targets and loss. `num_skipped` counts examples that cannot be trained on (empty texts)."""

    overlong: ClassVar[Overlong] = "truncate"
    is_divisible: ClassVar[bool] = True  # the mean loss of a batch is the weighted mean of its parts'

    def __init__(self, manifest: Manifest, task: AnyTask, part: int = 0) -> None:
        self.manifest = manifest
        self.task = task
        self.part = part
        self.index_of = {label: index for index, label in enumerate(manifest.labels)}
        self.num_skipped = 0

    def items(self, examples: Sequence[Example]) -> list[Item]:
        prepared = self.prepare([one.input for one in examples])
        items: list[Item] = []
        for one, example in zip(prepared, examples, strict=True):
            if isinstance(one, InputFault):
                self.num_skipped += 1
            else:
                items.extend(Item(rows, target, self.part) for rows, target in self.encode(one, example))
        return items

    def prepare(self, inputs: Sequence[Any]) -> Sequence[Any]:
        prepared: Sequence[Any] = self.task.prepare_many(inputs, Parameters(overlong=self.overlong))
        return prepared

    @abstractmethod
    def encode(self, prepared: Any, example: Example) -> list[tuple[tuple[Row, ...], Any]]:
        """Rows and target of each item of an example: usually one; one per window where those are trained alone."""

    def weight(self, items: Sequence[Item]) -> int:
        """How many terms the loss of these items is the mean of."""
        return len(items)

    @abstractmethod
    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], head: Head) -> Tensor:
        """Mean loss of items. `hidden` [T, hidden_size] is the pack's; `spans[i]` are where item i's rows lie."""

    def pooled(self, hidden: Tensor, spans: Spans) -> Tensor:
        """One state per row, as the head's gather says: [num_rows, hidden_size]."""
        return gather_by(hidden, [span for of_item in spans for span in of_item], self.manifest.head.gather)[0]


class TextObjective(Objective):
    """Cross entropy for one label, binary cross entropy for several, squared error for a number."""

    def encode(self, prepared: Prepared, example: Example) -> list[tuple[tuple[Row, ...], Any]]:
        if isinstance(prepared, PreparedCandidates) and isinstance(example.target, CandidateLabels):
            return self._candidates(prepared, example.target)
        return [(prepared.rows, self._target(example))]

    def _candidates(self, prepared: PreparedCandidates, target: CandidateLabels) -> list[tuple[tuple[Row, ...], Any]]:
        """Each candidate is an item of its own, as in the original code."""
        label_of = dict(zip(target.names, target.labels, strict=True))
        names = prepared.names or ()
        parts = zip(names, prepared.parts, strict=True)
        return [(part.rows, self.index_of[label_of[name]]) for name, part in parts]

    def _target(self, example: Example) -> Any:
        match self.manifest.decoding.problem:
            case "regression":
                return [float(example.target)]  # type: ignore[arg-type]
            case "multi_label":
                several = set(example.target)  # type: ignore[arg-type]
                return [float(label in several) for label in self.manifest.labels]
        return self.index_of[example.target]  # type: ignore[index]

    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], head: Head) -> Tensor:
        logits = head(self.pooled(hidden, spans))
        target = targets_of(items, hidden)
        match self.manifest.decoding.problem:
            case "regression":
                return F.mse_loss(logits, target)
            case "multi_label":
                return F.binary_cross_entropy_with_logits(logits, target)
        return F.cross_entropy(logits, target)


class TokenObjective(Objective):
    """Cross entropy at the first token of every word, read from the window where it has most context."""

    overlong = "window"

    def encode(self, prepared: PreparedWords, example: Example) -> list[tuple[tuple[Row, ...], Any]]:
        tags: Sequence[str] = example.target  # type: ignore[assignment]
        places = [(place, tag) for place, tag in zip(prepared.places, tags, strict=True) if place is not None]
        target = [(row, index, self.index_of[tag]) for (row, index), tag in places]
        return [(prepared.rows, target)] if target else []

    def weight(self, items: Sequence[Item]) -> int:
        return sum(len(item.target) for item in items)

    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], head: Head) -> Tensor:
        picks: list[int] = []
        labels: list[int] = []
        for of_item, item in zip(spans, items, strict=True):
            picks.extend(of_item[row].first_token + index for row, index, _ in item.target)
            labels.extend(label for _, _, label in item.target)
        return F.cross_entropy(head(picked(hidden, picks)), to_device(np.array(labels), hidden.device))


class AnswerObjective(Objective):
    """Cross entropy of start and end over the row; a window without the answer points at token 0 (no answer).

    Each window is an item of its own, as in the original code.
    """

    overlong = "window"

    def encode(self, prepared: PreparedContext, example: Example) -> list[tuple[tuple[Row, ...], Any]]:
        gold: GoldAnswers = example.target  # type: ignore[assignment]
        span = answer_tokens(prepared, gold)
        items: list[tuple[tuple[Row, ...], Any]] = []
        for row, (start, end) in zip(prepared.rows, prepared.ranges, strict=True):
            is_inside = span is not None and start <= span[0] and span[1] < end
            shift = prepared.first - start
            target = (span[0] + shift, span[1] + shift) if span is not None and is_inside else (0, 0)
            items.append(((row,), target))
        return items

    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], head: Head) -> Tensor:
        states, lengths = gather_by(hidden, [span for (span,) in spans], self.manifest.head.gather)
        logits = side_by_side(head(states), lengths)
        target = targets_of(items, hidden)
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

    def encode(self, prepared: Prepared, example: Example) -> list[tuple[tuple[Row, ...], Any]]:
        return [(prepared.rows, int(example.target))]  # type: ignore[arg-type]

    def loss(self, hidden: Tensor, spans: Spans, items: Sequence[Item], head: Head) -> Tensor:
        logits = side_by_side(head(self.pooled(hidden, spans)), [len(item.rows) for item in items])
        return F.cross_entropy(logits[..., 0], targets_of(items, hidden))


def targets_of(items: Sequence[Item], like: Tensor) -> Tensor:
    """The items' targets where `like` is; what is no whole number in its dtype."""
    targets = np.array([item.target for item in items])
    return to_device(targets if targets.dtype == np.int64 else targets.astype(np.float32), like.device)


def side_by_side(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """[sum(lengths), width] → [len(lengths), longest, width], padded with minus infinity. One call for all."""
    sizes = np.array(lengths)
    slot = np.arange(sizes.max())[None, :]
    is_padding = slot >= sizes[:, None]
    places = np.where(is_padding, 0, (sizes.cumsum() - sizes)[:, None] + slot)
    padded: Tensor = values.index_select(0, to_device(places.ravel(), values.device)).unflatten(0, places.shape)
    return padded.masked_fill(to_device(is_padding, values.device)[..., None], float("-inf"))
