"""A device with too little memory: the run goes on with fewer tokens at once and ends with the same adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import bundle_digest
from prefixrack_adapters.rows import Row
from prefixrack_adapters.training.drafts import draft_manifest, read_data
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.trainer import DataSet, train_prompt, training_backbone
from synthetic import MakeSettings, partners, several

Refuses = Callable[[int, int], bool]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Refuses], list[int]]:
    """Make passes run out of memory, by their tokens and their number; returns the sizes of those that were begun."""
    usual = Backbone._hidden_states

    def install(refuses: Refuses) -> list[int]:
        sizes: list[int] = []

        def hidden_states(backbone: Backbone, rows: Sequence[Row], *rest: Any) -> Tensor:
            sizes.append(sum(len(row) for row in rows))
            if refuses(sizes[-1], len(sizes)):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return usual(backbone, rows, *rest)

        monkeypatch.setattr(Backbone, "_hidden_states", hidden_states)
        return sizes

    return install


def budgets(log: Sequence[dict[str, float]]) -> list[float]:
    return [entry["pack_tokens"] for entry in log if "pack_tokens" in entry]


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation": 3}, {"prefix_dropout": 0.2}, {"prefix_dropout": 0.2, "gradient_accumulation": 2}],
    ids=["plain", "accumulation", "dropout", "both"],
)
def test_a_run_that_runs_out_of_memory_ends_as_one_that_was_careful_from_the_start(
    make_settings: MakeSettings, refuse: Callable[[Refuses], list[int]], tmp_path: Path, options: dict[str, Any]
) -> None:
    sizes = refuse(lambda num_tokens, _: num_tokens > 38 and not torch.is_inference_mode_enabled())
    report = run_training(make_settings(output=tmp_path / "surprised", epochs=2, **options))
    (budget,) = budgets(report.log)
    assert 38 < sizes[0] <= 2 * 38
    assert max(sizes[1 : 2 * 20]) <= budget, "no other pass of training is tried at the size that failed"
    careful = run_training(make_settings(output=tmp_path / "careful", epochs=2, pack_tokens=int(budget), **options))
    assert budgets(careful.log) == []
    assert report.history == careful.history
    assert bundle_digest(tmp_path / "surprised") == bundle_digest(tmp_path / "careful")


class FirstGradients(TrainerCallback):
    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.gradients:
            named = kwargs["model"].named_parameters()
            self.gradients = {name: part.grad.clone() for name, part in named if part.grad is not None}


def first_gradients(settings: TrainSettings, folder: Path) -> dict[str, Tensor]:
    data, backbone = read_data(settings), training_backbone(settings)
    seen = FirstGradients()
    sets = [DataSet(draft_manifest(settings, backbone.spec, data), data.train, data.dev)]
    train_prompt(settings, backbone, sets, folder, [seen])
    return seen.gradients


def test_a_pass_that_fails_in_the_middle_of_a_batch_leaves_nothing_of_it(
    make_settings: MakeSettings, refuse: Callable[[Refuses], list[int]], tmp_path: Path
) -> None:
    """The fourth pass of the first step belongs to its second batch, of which a part has been computed by then."""
    settings = make_settings(prefix_dropout=0.2, backbone_dropout=False, gradient_accumulation=2, pack_tokens=30)
    expected = first_gradients(settings.model_copy(update={"pack_tokens": 10_000}), tmp_path / "whole")
    refuse(lambda _, number: number in (4, 6))
    seen = first_gradients(settings, tmp_path / "halved")
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-6)


def test_prefix_dropout_is_the_same_in_however_many_packs(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(prefix_dropout=0.3, backbone_dropout=False)
    whole, cut, other = (
        first_gradients(settings.model_copy(update=update), tmp_path / str(number))
        for number, update in enumerate([{}, {"pack_tokens": 20}, {"seed": 14}])
    )
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(other["encoder.embedding.weight"], whole["encoder.embedding.weight"], atol=1e-4)


def test_fine_tuning_goes_on_too(make_settings: MakeSettings, refuse: Callable[[Refuses], list[int]]) -> None:
    refuse(lambda num_tokens, _: num_tokens > 38)
    report = run_training(make_settings(method="fine-tuning", learning_rate=1e-3, epochs=2))
    assert len(budgets(report.log)) == 1
    assert report.scores["accuracy"] > report.majority["accuracy"]


def test_scoring_that_runs_out_of_memory_goes_on_too(
    make_settings: MakeSettings, refuse: Callable[[Refuses], list[int]], tmp_path: Path
) -> None:
    """On dev after every epoch, for the thresholds and for the report."""
    options = {"task": "text-classification", "record": several}
    usual = run_training(make_settings(*options.values(), output=tmp_path / "usual"))
    sizes = refuse(lambda num_tokens, _: torch.is_inference_mode_enabled() and num_tokens > 50)
    report = run_training(make_settings(*options.values(), output=tmp_path / "careful"))
    assert sum(size > 50 for size in sizes) > 3
    assert report.scores == usual.scores
    assert bundle_digest(tmp_path / "careful") == bundle_digest(tmp_path / "usual")


@pytest.mark.parametrize(
    ("task", "refuses", "what"),
    [
        ("text-embedding", lambda num_tokens, _: num_tokens > 60, r"8\d tokens"),
        ("text-classification", lambda num_tokens, _: num_tokens > 4, "[5-9] tokens"),
        ("text-classification", lambda num_tokens, _: torch.is_inference_mode_enabled(), "one row"),
    ],
    ids=["a batch of embeddings", "one row", "one row of dev"],
)
def test_what_cannot_be_divided_is_told(
    make_settings: MakeSettings,
    refuse: Callable[[Refuses], list[int]],
    task: str,
    refuses: Refuses,
    what: str,
) -> None:
    settings = make_settings(task, partners) if task == "text-embedding" else make_settings()
    refuse(refuses)
    with pytest.raises(InvalidRequest, match=f"no memory for {what} in one pass, which cannot be divided: lower --max"):
        run_training(settings)
    assert [path.name for path in settings.output.parent.iterdir()] == ["data"]


def test_a_device_too_small_for_what_is_kept_on_it_is_told(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the optimizer's numbers, of which a smaller pack has no fewer."""

    def step(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    settings = make_settings()
    with pytest.raises(InvalidRequest, match=r"kept beside it \(CUDA out of memory. Tried to allocate 2 GiB.\): free "):
        run_training(settings)
    assert [path.name for path in settings.output.parent.iterdir()] == ["data"]
