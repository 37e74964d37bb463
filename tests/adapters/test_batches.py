"""Batches: every item once per epoch, about as many tokens as asked for, and the same again for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefixrack_adapters.rows import Row
from prefixrack_adapters.training.batches import BatchSampler
from prefixrack_adapters.training.drafts import draft_manifest, read_data
from prefixrack_adapters.training.objectives import Item
from prefixrack_adapters.training.trainer import DataSet, PromptTrainer, item_packs, train_prompt, training_backbone
from synthetic import MakeSettings

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=120)
BUDGETS = st.one_of(st.none(), st.integers(1, 3000))
SEEDS = st.integers(0, 2**32 - 1)


@given(lengths=LENGTHS, size=st.integers(1, 40), budget=BUDGETS, seed=SEEDS, epoch=st.integers(0, 50))
def test_every_item_comes_once_in_as_many_batches_as_promised(
    lengths: list[int], size: int, budget: int | None, seed: int, epoch: int
) -> None:
    sampler = BatchSampler(lengths, size, budget, seed)
    for one in (0, epoch):
        sampler.set_epoch(one)
        batches = list(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert len(batches) == len(sampler)
        assert all(batches)


@given(lengths=LENGTHS, budget=st.integers(1, 3000), seed=SEEDS)
def test_batches_hold_about_the_tokens_asked_for(lengths: list[int], budget: int, seed: int) -> None:
    sampler = BatchSampler(lengths, 1, budget, seed)
    share = sum(lengths) / len(sampler)
    wanted = min(max(budget, *lengths), sum(lengths))
    assert wanted <= share < 2 * wanted or len(sampler) == 1
    for batch in sampler:
        assert abs(sum(lengths[index] for index in batch) - share) <= max(lengths)


@given(lengths=LENGTHS, size=st.integers(1, 40))
def test_batches_of_examples_are_full_but_for_the_last(lengths: list[int], size: int) -> None:
    batches = list(BatchSampler(lengths, size, None, 13))
    assert all(len(batch) == size for batch in batches[:-1])


@given(lengths=LENGTHS, size=st.integers(1, 40), budget=BUDGETS, seed=SEEDS)
def test_the_same_seed_and_epoch_give_the_same_batches(
    lengths: list[int], size: int, budget: int | None, seed: int
) -> None:
    one, other = (BatchSampler(lengths, size, budget, seed) for _ in range(2))
    for epoch in (0, 3, 0):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        assert list(one) == list(other) == list(one)


def test_seeds_and_epochs_shuffle_differently() -> None:
    for budget in (None, 100):
        samplers = {seed: BatchSampler([10] * 40, 8, budget, seed) for seed in (1, 2)}
        seen = []
        for sampler in samplers.values():
            for epoch in range(3):
                sampler.set_epoch(epoch)
                seen.append(list(sampler))
        assert all(one not in seen[:index] for index, one in enumerate(seen))


@given(lengths=LENGTHS, max_tokens=st.integers(1, 400))
def test_packs_hold_every_item_and_no_more_tokens_than_allowed(lengths: list[int], max_tokens: int) -> None:
    items = [Item((Row((1,) * length, (0,) * length, 0),), number) for number, length in enumerate(lengths)]
    packs = item_packs(items, max_tokens)
    assert sorted(item.target for pack in packs for item in pack) == list(range(len(lengths)))
    for pack in packs:
        assert sum(item.num_tokens for item in pack) <= max_tokens or len(pack) == 1


class BatchesSeen(TrainerCallback):
    """The batches of every epoch, as the trainer's own data loader hands them out."""

    def __init__(self) -> None:
        self.of_epochs: list[list[list[int]]] = []

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.of_epochs.append([])


def test_a_run_shuffles_anew_in_every_epoch(make_settings: MakeSettings, tmp_path: Path, monkeypatch: Any) -> None:
    settings = make_settings(epochs=3, patience=3)
    data, backbone = read_data(settings), training_backbone(settings)
    seen = BatchesSeen()
    usual = PromptTrainer.training_step

    def spied(trainer: PromptTrainer, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        seen.of_epochs[-1].append(_ids(inputs["items"]))
        return usual(trainer, model, inputs, *rest)

    monkeypatch.setattr(PromptTrainer, "training_step", spied)
    sets = [DataSet(draft_manifest(settings, backbone.spec, data), data.train, data.dev)]
    train_prompt(settings, backbone, sets, tmp_path / "checkpoints", [seen])
    first, second, third = seen.of_epochs
    assert len(first) == len(second) == len(third) == 160 // 8
    assert first != second != third != first
    everything = [sorted(id_ for batch in epoch for id_ in batch) for epoch in seen.of_epochs]
    assert everything[0] == everything[1] == everything[2]
    assert len(set(everything[0])) == 160


def _ids(items: Sequence[Item]) -> list[int]:
    return [id(item) for item in items]
