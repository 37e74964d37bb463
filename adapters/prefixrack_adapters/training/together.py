"""Several runs trained at once on the one frozen backbone: each step is a pack with a batch of every run in it.

A pack may mix rows of any adapters, in training as in serving: every row sees the prefix of its own run, so the
gradients of a run are those that it would have alone. On a GPU, where the step of a small backbone costs what its calls
cost and not what it computes, many runs take little longer than one.

The loop is our own: transformers' Trainer knows one schedule, one clipping and one end for all that it steps. A run has
the batches, rates, clipping, early stopping and initial tensors that it has alone (`trainer.py`). Runs are kept in
memory: one that is broken off leaves nothing to go on with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from prefixrack.errors import Fault, InvalidRequest
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.evaluation import Evaluation, Exam, evaluate_together
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.packing import RowSpan, picked
from prefixrack_adapters.training.batches import BatchSampler
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.drafts import TrainingData, draft_manifest, read_data
from prefixrack_adapters.training.memory import halving, release, too_little
from prefixrack_adapters.training.model import BeforeRow, PromptModel, hidden_states
from prefixrack_adapters.training.objectives import Item, Spans
from prefixrack_adapters.training.progress import Board, Watch, watched
from prefixrack_adapters.training.run import finish_part, start_of
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.stacks import EncoderStack, Rates, StackedAdamW, Stacks
from prefixrack_adapters.training.trainer import (
    LOGGED_STEPS,
    DataSet,
    TrainingResult,
    beginning,
    item_packs,
    result_of,
    training_backbone,
)
from prefixrack_adapters.transfer import to_device

METHODS = ("p-tuning-v2", "prompt-tuning", "head-only")  # those that leave the backbone as it is
SHARED = ("backbone", "device", "dtype", "backbone_dropout")


def run_together(settings: Sequence[TrainSettings], watch: Watch | None = None) -> list[Report | Fault]:
    """Train all runs at once, and score and write each as `run_training` does. Reports in the order of the settings.

    Runs may differ in all but the backbone, its device, dtype and dropout. A run whose adapter cannot be written, such
    as one that diverged, has its fault in place of a report. Raises InvalidRequest for what cannot be trained together.
    """
    check_together(settings)
    started = time.monotonic()
    data = [read_data(one) for one in settings]
    with watched(watch, settings[0].output.parent) as looking_on:
        backbone = training_backbone(settings[0])
        learners = [_learner(*one, backbone) for one in zip(settings, data, strict=True)]
        train_together(backbone, learners, looking_on.board)
        backbone.model.eval()
        is_served = any(not one.is_baseline for one in settings)
        serving = Backbone.load(settings[0].backbone, settings[0].device) if is_served else None
        return [_finish(one, own, started, serving) for one, own in zip(learners, data, strict=True)]


def check_together(settings: Sequence[TrainSettings]) -> None:
    """Raises InvalidRequest where these runs cannot share their steps."""
    if not settings:
        raise InvalidRequest("there is no run to train: give the settings of one at least")
    for one in settings:
        if one.method not in METHODS:
            raise InvalidRequest(
                f"method {one.method!r} of {one.name} cannot be trained together with other runs: those are "
                f"{', '.join(METHODS)}, which leave the backbone as it is; train it alone"
            )
        if one.trackers:
            raise InvalidRequest(f"{one.name} has trackers, which follow a run that is trained alone: leave them out")
    for name in SHARED:
        several = {str(getattr(one, name)) for one in settings}
        if len(several) > 1:
            raise InvalidRequest(f"{name} is {' and '.join(sorted(several))}: runs that are trained together share it")
    outputs = [one.output.absolute() for one in settings]
    for output in outputs:
        if outputs.count(output) > 1:
            raise InvalidRequest(f"{output} is the output of {outputs.count(output)} runs: give each its own")
        if output.exists() and not output.is_dir():
            raise InvalidRequest(f"{output} is a file: give a folder as output")


class Learner:
    """One of the runs: its model and batches, how far it is, and what it has learnt so far."""

    def __init__(self, settings: TrainSettings, model: PromptModel, items: Sequence[Item], exam: Exam) -> None:
        self.settings = settings
        self.model = model
        self.exam = exam
        self.log: list[dict[str, float]] = []
        self._items = items
        lengths = [item.num_tokens for item in items]
        self._sampler = BatchSampler(lengths, settings.batch_size, settings.batch_tokens, settings.seed)
        self.steps_per_epoch = -(-len(self._sampler) // settings.gradient_accumulation)
        self.num_steps = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.is_over = False
        self._updates: Iterator[list[list[Item]]] = iter(())
        self._best_score: float | None = None
        self._best: Mapping[str, Tensor] = {}
        self._num_worse = 0

    @property
    def is_epoch_over(self) -> bool:
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def next_batches(self) -> list[list[Item]]:
        """The batches of the next step: one, or as many as the settings accumulate."""
        if self.step % self.steps_per_epoch == 0:
            self._updates = self._epoch(self.step // self.steps_per_epoch)
        self.step += 1
        return next(self._updates)

    def _epoch(self, epoch: int) -> Iterator[list[list[Item]]]:
        self._sampler.set_epoch(epoch)
        batches = [[self._items[index] for index in batch] for batch in self._sampler]
        size = self.settings.gradient_accumulation
        return iter([batches[start : start + size] for start in range(0, len(batches), size)])

    @property
    def rates(self) -> Rates:
        """Of the step that `next_batches` gave last. A run that is over has none."""
        if self.is_over:
            return Rates(0.0, 0.0)
        share = scheduled(self.step - 1, self.num_steps, self.settings.warmup)
        return Rates(share * self.settings.rate, share * self.settings.head_rate)

    def learn_of(self, result: Evaluation) -> None:
        """The dev scores of an epoch: keeps the tensors if they are the best so far, and ends the run if it is time."""
        scores = {f"eval_{name}": value for name, value in result.scores.items()}
        self.log.append({"eval_main": result.value, **scores, **self._when(self.step)})
        if self._best_score is None or result.value > self._best_score:
            self._best_score = result.value
            self._best = {name: values.clone() for name, values in self.model.state_dict().items()}
            self._num_worse = 0
        else:
            self._num_worse += 1
        self.is_over = self._num_worse >= self.settings.patience or self.step == self.num_steps

    def note_losses(self, losses: Sequence[float]) -> None:
        """Those of the latest epoch's steps, logged where a run alone logs: of the first step, then their means."""
        since: list[float] = []
        for step, loss in enumerate(losses, start=self.step - len(losses) + 1):
            since.append(loss)
            if step == 1 or step % LOGGED_STEPS == 0 or step == self.step:
                self.log.append({"loss": sum(since) / len(since), **self._when(step)})
                since.clear()

    def _when(self, step: int) -> dict[str, float]:
        return {"epoch": step / self.steps_per_epoch, "step": step}

    def result(self) -> TrainingResult:
        """With the best epoch's tensors in the model."""
        self.model.load_state_dict(self._best)
        return result_of(self.model, self.log, self.settings.epochs)


def scheduled(step: int, num_steps: int, warmup: float) -> float:
    """The share of its rate that a run has in a step, counted from 0: a linear rise over the warm-up, a linear fall."""
    num_warmup = math.ceil(num_steps * warmup)
    if step < num_warmup:
        return step / num_warmup
    return (num_steps - step) / max(1, num_steps - num_warmup)


def _learner(settings: TrainSettings, data: TrainingData, backbone: Backbone) -> Learner:
    manifest = draft_manifest(settings, backbone.spec, data)
    start = start_of(settings, manifest, backbone)
    model, items = beginning(settings, backbone, [DataSet(manifest, data.train, data.dev)], start)
    return Learner(settings, model, items, Exam.of(backbone, manifest, data.dev))


def _manifest(learner: Learner) -> Manifest:
    return learner.model.parts[0].manifest


def _finish(learner: Learner, data: TrainingData, started: float, serving: Backbone | None) -> Report | Fault:
    try:
        return finish_part(learner.settings, data, _manifest(learner), learner.result(), 0, started, serving=serving)
    except InvalidRequest as error:
        return error


def train_together(backbone: Backbone, learners: Sequence[Learner], board: Board) -> None:
    """Step all runs until each is over."""
    steps = Steps(backbone, learners)
    active = list(learners)
    progress = board.bar("training", max(one.num_steps for one in active))
    while active:
        steps.take(active)
        progress.advance(f"{len(active)} of {len(learners)} runs")
        due = [one for one in active if one.is_epoch_over]
        if due:
            steps.note_losses(due)
            for one, result in zip(due, steps.evaluate(due), strict=True):
                one.learn_of(result)
        active = [one for one in active if not one.is_over]


@dataclass(frozen=True, slots=True)
class Share:
    """Items of one run in a pack, the batch that they are of, and the weight of its loss."""

    run: int
    items: Sequence[Item]
    batch: Sequence[Item]
    weight: float

    @property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for item in self.items)


class Steps:
    """Computes steps: gradients of all runs from shared packs, then the optimizer, with no word from the device."""

    def __init__(self, backbone: Backbone, learners: Sequence[Learner]) -> None:
        self._backbone = backbone
        self._learners = learners
        self._numbers = {id(one): number for number, one in enumerate(learners)}
        self._stacks = Stacks.of([one.model for one in learners])
        self._optimizer = StackedAdamW(self._stacks, [one.settings.weight_decay for one in learners])
        self._losses: list[Tensor] = []  # of each step [num_runs], on the device until an epoch is over
        self._read: list[list[float]] = []
        self.pack_tokens = max(one.settings.pack_tokens for one in learners)

    def take(self, active: Sequence[Learner]) -> None:
        """One step of these runs. Out of memory, it is done again in packs of half the tokens."""
        shares = []
        for learner in active:
            batches = learner.next_batches()
            shares += [Share(self._numbers[id(learner)], batch, batch, 1 / len(batches)) for batch in batches]
        while True:
            try:
                losses = self._gradients(shares)
                break
            except torch.OutOfMemoryError:
                self._halve(shares)
            release()
        self._losses.append(losses)
        self._optimizer.step([one.rates for one in self._learners])

    def _gradients(self, shares: Sequence[Share]) -> Tensor:
        """Gradients of a step, and the loss of each run [num_runs]."""
        self._stacks.clear_gradients()
        self._backbone.model.train(self._learners[0].settings.backbone_dropout)
        # Prefixes are made once a step. Each pack adds to the gradients of these copies, so it can be let go at once.
        runs = {share.run for share in shares}
        encoders = [encoder for encoder in self._stacks.encoders if not runs.isdisjoint(encoder.owners)]
        made = [encoder() for encoder in encoders]
        copies = [states.detach().requires_grad_() for states in made]
        losses = torch.zeros(len(self._learners), device=self._backbone.device)
        for pack in divided(shares, self.pack_tokens, self._is_divisible):
            self._add_gradients(pack, by_run(encoders, copies), losses)
        for states, copy in zip(made, copies, strict=True):
            states.backward(copy.grad)
        return losses

    def _add_gradients(self, pack: Sequence[Share], made: Mapping[int, Tensor], losses: Tensor) -> None:
        items = [item for share in pack for item in share.items]
        before: list[BeforeRow] = []
        for share in pack:
            before += self._learners[share.run].model.before_rows(made.get(share.run), share.items, share.batch)
        hidden, spans = hidden_states(self._backbone, items, before)
        of_shares = []
        for share, (states, own_spans) in zip(pack, by_share(hidden, spans, pack), strict=True):
            model = self._learners[share.run].model
            of_shares.append(model.loss(states, own_spans, share.items, share.batch) * share.weight)
        together = torch.stack(of_shares)
        together.sum().backward()
        runs = to_device(np.array([share.run for share in pack]), losses.device)
        losses.index_add_(0, runs, together.detach())

    def _is_divisible(self, share: Share) -> bool:
        return self._learners[share.run].model.is_divisible

    def _halve(self, shares: Sequence[Share]) -> None:
        """Raises InvalidRequest where there is nothing left to halve."""
        num_tokens = sum(share.num_tokens for share in shares)
        largest = max(
            max(item.num_tokens for item in share.items) if self._is_divisible(share) else share.num_tokens
            for share in shares
        )
        if min(self.pack_tokens, num_tokens) <= largest:
            raise too_little(f"{largest} tokens") from None
        self.pack_tokens = max(largest, min(self.pack_tokens, num_tokens) // 2)

    def note_losses(self, due: Sequence[Learner]) -> None:
        """Read what the steps since the last reading lost, in one copy, and tell the runs whose epoch is over."""
        self._read += torch.stack(self._losses).tolist()
        self._losses.clear()
        for learner in due:
            own = [losses[self._numbers[id(learner)]] for losses in self._read[-learner.steps_per_epoch :]]
            learner.note_losses(own)

    def evaluate(self, due: Sequence[Learner]) -> list[Evaluation]:
        """Dev scores of these runs, in packs of all of them."""
        self._backbone.model.eval()
        sitting = [(learner.exam, learner.model.adapter()) for learner in due]
        return halving(lambda tokens: evaluate_together(self._backbone, sitting, tokens), self.pack_tokens)


def by_run(encoders: Sequence[EncoderStack], made: Sequence[Tensor]) -> dict[int, Tensor]:
    """What the encoder of each run gave, of those that have one."""
    pairs = zip(encoders, made, strict=True)
    return {run: own for encoder, states in pairs for run, own in zip(encoder.owners, states.unbind(0), strict=True)}


def by_share(hidden: Tensor, spans: Spans, pack: Sequence[Share]) -> Iterator[tuple[Tensor, Spans]]:
    """The states of each share of a pack alone, and where its rows lie among them.

    A loss that reads from all of the pack has a gradient of its size: as many of those as runs would be most of a step.
    """
    flat = [span for of_item in spans for span in of_item]
    in_order = picked(hidden, chain.from_iterable(range(span.start, span.end) for span in flat))
    of_items = iter(spans)
    of_shares: list[tuple[int, Spans]] = []
    for share in pack:
        end = 0
        own: list[list[RowSpan]] = []
        for of_item in islice(of_items, len(share.items)):
            own.append([])
            for span in of_item:
                own[-1].append(span._replace(start=end))
                end += span.end - span.start
        of_shares.append((end, own))
    states = in_order.split([num_states for num_states, _ in of_shares])
    return zip(states, (own for _, own in of_shares), strict=True)


def divided(shares: Sequence[Share], max_tokens: int, is_divisible: Callable[[Share], bool]) -> list[list[Share]]:
    """Shares in packs of at most `max_tokens` tokens. What is longer and cannot be cut goes alone.

    A run's share is cut only where it fits into no pack: each piece costs the calls of a loss.
    """
    pieces = [piece for share in shares for piece in _pieces(share, max_tokens, is_divisible(share))]
    packs: list[list[Share]] = []
    room = 0
    for piece in pieces:
        if not packs or piece.num_tokens > room:
            packs.append([])
            room = max_tokens
        packs[-1].append(piece)
        room -= piece.num_tokens
    return packs


def _pieces(share: Share, max_tokens: int, is_divisible: bool) -> list[Share]:
    if not is_divisible or share.num_tokens <= max_tokens:
        return [share]
    return [replace(share, items=items) for items in item_packs(share.items, max_tokens)]
