"""What a training step costs, against the same step written by hand on stock transformers with padded batches.

Both train the same prefix and head on the same batches with AdamW, gradient clipping and a linear schedule, with the
backbone's dropout or without it. Before anything is timed, the loss and the gradients of a batch are compared. The two
take turns. Prints one JSON line per length histogram and dtype; see README.md here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from transformers import (
    AutoModel,
    DynamicCache,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)
from transformers.utils.logging import disable_progress_bar

from machine import device_name, git_commit
from options import Backbone as BackboneOption
from options import Commit, Rounds, Threads
from prefixrack_adapters.devices import DTYPES, resolve_device
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.model import Part, PromptModel
from prefixrack_adapters.training.objectives import Item, TextObjective
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.trainer import PromptTrainer, training_arguments, training_backbone
from shapes import backbone_folder
from stand import print_line
from turns import Spread, Turns, stderr, take_turns
from workload import LABELS, natural_lengths, random_manifest
from yardsticks import synchronise

BATCH_SIZE, LEARNING_RATE = 32, 1e-2
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
WARM_STEPS = 2
HISTOGRAMS: dict[str, Callable[[int, np.random.Generator], list[int]]] = {
    "equal": lambda num_rows, _: [32] * num_rows,
    "natural": natural_lengths,
    "one long": lambda num_rows, _: [128 if index % BATCH_SIZE == 0 else 16 for index in range(num_rows)],
}


@dataclass(frozen=True)
class Setup:
    """`steps` are those of a round that count."""

    backbone: str
    histogram: str
    dtype: str
    dropout: bool
    threads: int
    prefix_len: int
    batch_size: int
    steps: int
    rounds: int


class StockModel(nn.Module):
    """P-Tuning v2 as one would write it by hand: a prefix in the key-value cache of a padded batch."""

    def __init__(self, folder: Path, spec: BackboneSpec, prefix_len: int, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        # outside of the module tree: it is not trained
        self._outside = (AutoModel.from_pretrained(folder, dtype=dtype).to(device).requires_grad_(False),)
        self._spec = spec
        width = spec.num_layers * 2 * spec.num_kv_heads * spec.head_dim
        self.prefix = nn.Embedding(prefix_len, width, device=device)
        self.head = nn.Linear(spec.hidden_size, len(LABELS), device=device)

    @property
    def backbone(self) -> Any:
        return self._outside[0]

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        spec = self._spec
        size, prefix_len = len(ids), self.prefix.num_embeddings
        shape = (prefix_len, spec.num_layers, 2, spec.num_kv_heads, spec.head_dim)
        states = self.prefix.weight.view(shape).permute(1, 2, 3, 0, 4).to(self.backbone.dtype)
        cache = DynamicCache()
        for layer, (key, value) in enumerate(states):
            cache.update(key.expand(size, -1, -1, -1), value.expand(size, -1, -1, -1), layer)
        positions = spec.first_position(prefix_len, "after_prefix") + torch.arange(ids.shape[1], device=ids.device)
        hidden = self.backbone(
            input_ids=ids,
            attention_mask=torch.cat((mask.new_ones(size, prefix_len), mask), dim=1),
            position_ids=positions.expand(size, -1),
            past_key_values=cache,
        ).last_hidden_state
        return F.cross_entropy(self.head(hidden[:, 0].float()), labels)


class StepTimes(TrainerCallback):
    """Seconds from the start of a step to that of the next one: all that the Trainer does is in it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.starts: list[float] = []  # of the steps, and at last of one that only ends the one before

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.note_start()

    def note_start(self) -> None:
        synchronise(self._device)
        self.starts.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of all steps but those that warm up."""
        return sum([after - before for before, after in pairwise(self.starts)][WARM_STEPS:])


class Contest:
    """Both contestants on one backbone, with the same batches."""

    def __init__(self, folder: Path, setup: Setup, device: str, seed: int) -> None:
        self.setup, self.device = setup, device
        self._settings = _settings(folder, setup, device)
        self.backbone = training_backbone(self._settings)
        self.stock = StockModel(folder, self.backbone.spec, setup.prefix_len, device, DTYPES[setup.dtype])
        self.items = self._items(np.random.default_rng(seed))

    def _items(self, random: np.random.Generator) -> list[Item]:
        num_rows = (self.setup.steps + WARM_STEPS + 1) * self.setup.batch_size
        spec = self.backbone.spec
        first = spec.first_position(self.setup.prefix_len, "after_prefix")
        lengths = HISTOGRAMS[self.setup.histogram](num_rows, random)
        rows = [
            Row(tuple(random.integers(5, spec.vocab_size, length).tolist()), (0,) * length, first) for length in lengths
        ]
        return [Item((row,), int(random.integers(len(LABELS)))) for row in rows]

    def model(self) -> PromptModel:
        """Ours, starting from the stock model's weights."""
        manifest = random_manifest("contest", self.backbone.spec, self.setup.prefix_len)
        objective = TextObjective(manifest, build_task(manifest, self.backbone.spec, self.backbone.tokenizer))
        encoder = PrefixEncoder(manifest.prefix, self.backbone.spec.hidden_size, None, 0.0)  # type: ignore[arg-type]
        parts, encoder = [Part(manifest, objective)], encoder.to(self.device)
        model = PromptModel(self.backbone, parts, encoder, backbone_dropout=self.setup.dropout)
        with torch.no_grad():
            encoder.embedding.weight.copy_(self.stock.prefix.weight)
            own = dict(model.heads.named_parameters())
            own["0.0.weight"].copy_(self.stock.head.weight)
            own["0.0.bias"].copy_(self.stock.head.bias)
        return model

    def check_equal(self) -> None:
        """Raises SystemExit where loss or gradients of a batch differ by more than the dtype's tolerance."""
        batch, ours = self.items[: self.setup.batch_size], self.model().eval()
        loss = ours(batch)["loss"]
        loss.backward()
        stock_loss = self.stock(*self._padded(batch))
        stock_loss.backward()
        assert isinstance(ours.encoder, PrefixEncoder)
        pairs = {
            "loss": (loss.detach(), stock_loss.detach()),
            "prefix gradient": (ours.encoder.embedding.weight.grad, self.stock.prefix.weight.grad),
            "head gradient": (dict(ours.heads.named_parameters())["0.0.weight"].grad, self.stock.head.weight.grad),
        }
        for name, (seen, wanted) in pairs.items():
            assert seen is not None
            assert wanted is not None
            error = float((seen - wanted).abs().max() / wanted.abs().max())
            if not error <= TOLERANCES[self.setup.dtype]:
                raise SystemExit(f"{name} differs by {error:.2e} of the largest value: nothing was timed")

    def ours_seconds(self, _round: int) -> float:
        """Steps of the Trainer that `prefixrack train` runs."""
        times = StepTimes(self.device)
        with tempfile.TemporaryDirectory(prefix="prefixrack-training-") as folder:
            trainer = PromptTrainer(
                items=self.items,
                dev=[],
                settings=self._settings,
                model=self.model(),
                args=training_arguments(self._settings, Path(folder), self.device, has_dev=False),
                callbacks=[times],
            )
            trainer.train()
        return times.seconds

    def stock_seconds(self, _round: int) -> float:
        """The same steps by hand, collation included."""
        self.stock.train()
        self.stock.backbone.train(self.setup.dropout)
        optimiser = torch.optim.AdamW(self.stock.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        size = self.setup.batch_size
        batches = [self.items[start : start + size] for start in range(0, len(self.items), size)]
        schedule = get_linear_schedule_with_warmup(optimiser, 1, len(batches))
        times = StepTimes(self.device)
        for batch in batches:
            times.note_start()
            optimiser.zero_grad()
            self.stock(*self._padded(batch)).backward()
            nn.utils.clip_grad_norm_(self.stock.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        return times.seconds

    def _padded(self, batch: Sequence[Item]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [item.rows[0].token_ids for item in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        return ids, mask, torch.tensor([item.target for item in batch], device=self.device)


def _settings(folder: Path, setup: Setup, device: str) -> TrainSettings:
    return TrainSettings(
        name="contest",
        task="text-classification",
        backbone=folder,
        train_file="",
        dev_file="",
        output=folder,
        prefix_len=setup.prefix_len,
        backbone_dropout=setup.dropout,
        epochs=1,
        batch_size=setup.batch_size,
        learning_rate=LEARNING_RATE,
        device=device,
        dtype=setup.dtype,
    )


def measure(contest: Contest) -> Turns:
    contest.check_equal()
    contestants = {"ours": contest.ours_seconds, "stock": contest.stock_seconds}
    return take_turns(contestants, contest.setup.rounds, warm_ups=1)


def result_of(turns: Turns, steps: int) -> dict[str, Any]:
    """`of_stock` is the ratio of the times, round by round: below 1 ours is the faster one."""
    of_step = {
        name: Spread.of([1000 * taken / steps for taken in seconds], 1) for name, seconds in turns.seconds.items()
    }
    return {
        "step_ms": asdict(of_step["ours"]),
        "stock_step_ms": asdict(of_step["stock"]),
        "of_stock": asdict(turns.speed("stock", "ours")),
    }


def main(
    histogram: Annotated[list[str] | None, typer.Option(help="equal, natural, one long; all by default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Of the frozen backbone; both by default.")] = None,
    dropout: Annotated[bool, typer.Option(help="The backbone's own, in both.")] = False,
    prefix_len: int = 32,
    steps: Annotated[int, typer.Option(help="In a round.")] = 6,
    rounds: Rounds = 8,
    backbone: BackboneOption = "minilm",
    device: str = "auto",
    threads: Threads = None,
    seed: int = 13,
    commit: Commit = None,
) -> None:
    """Time training steps, ours and by hand."""
    torch.set_num_threads(threads or torch.get_num_threads())
    disable_progress_bar()
    place = resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="prefixrack-benchmark-") as work:
        folder = backbone_folder(backbone, Path(work))
        for name in histogram or HISTOGRAMS:
            for one in dtype or ("float32", "bfloat16"):
                sizes = (torch.get_num_threads(), prefix_len, BATCH_SIZE, steps, rounds)
                setup = Setup(backbone, name, one, dropout, *sizes)
                turns = measure(Contest(folder, setup, place, seed))
                shown = {"benchmark": "training"} | asdict(setup)
                print_line(commit or git_commit(), device_name(place), shown, result_of(turns, steps))
                stderr.print(f"{name}, {one}: {turns.speed('stock', 'ours')} of the time of the step by hand")


if __name__ == "__main__":
    typer.run(main)
