"""What a training step costs, against the same step written by hand on stock transformers with padded batches.

Both train the same prefix and head on the same batches with AdamW, gradient clipping and a linear schedule. Before
anything is timed, the loss and the gradients of a batch are compared. The two are run in turn. Prints one JSON line
per length histogram and dtype.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
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

from machine import device_name, git_commit
from prefixrack_adapters.attention import RowLoop
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.devices import DTYPES, resolve_device
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.model import Part, PromptModel
from prefixrack_adapters.training.objectives import Item, TextObjective
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.trainer import PromptTrainer, training_arguments
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
stderr = Console(stderr=True)


@dataclass(frozen=True)
class Setup:
    histogram: str
    dtype: str
    threads: int
    prefix_len: int
    batch_size: int
    steps: int
    rounds: int


class StockModel(nn.Module):
    """P-Tuning v2 as one would write it by hand: a prefix in the key-value cache of a padded batch."""

    def __init__(self, folder: Path, spec: BackboneSpec, prefix_len: int, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._backbone = (AutoModel.from_pretrained(folder, dtype=dtype).to(device).requires_grad_(False),)
        self._spec = spec
        width = spec.num_layers * 2 * spec.num_kv_heads * spec.head_dim
        self.prefix = nn.Embedding(prefix_len, width, device=device)
        self.head = nn.Linear(spec.hidden_size, len(LABELS), device=device)

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        spec, (backbone,) = self._spec, self._backbone
        size, prefix_len = len(ids), self.prefix.num_embeddings
        shape = (prefix_len, spec.num_layers, 2, spec.num_kv_heads, spec.head_dim)
        states = self.prefix.weight.view(shape).permute(1, 2, 3, 0, 4).to(backbone.dtype)
        cache = DynamicCache()
        for layer, (key, value) in enumerate(states):
            cache.update(key.expand(size, -1, -1, -1), value.expand(size, -1, -1, -1), layer)
        positions = spec.first_position(prefix_len, "after_prefix") + torch.arange(ids.shape[1], device=ids.device)
        hidden = backbone(
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
        self.starts: list[float] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        synchronise(self._device)
        self.starts.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.starts)][WARM_STEPS:]


class Contest:
    """Both contenders on one backbone, with the same batches."""

    def __init__(self, folder: Path, setup: Setup, device: str, seed: int) -> None:
        self.setup, self.device = setup, device
        dtype = DTYPES[setup.dtype]
        self.backbone = Backbone.load(folder, device, setup.dtype)
        self.backbone.attention = RowLoop(torch.float32 if device == "cpu" else None)
        self.stock = StockModel(folder, self.backbone.spec, setup.prefix_len, device, dtype)
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
        model = PromptModel(self.backbone, [Part(manifest, objective)], encoder.to(self.device))
        with torch.no_grad():
            encoder.embedding.weight.copy_(self.stock.prefix.weight)
            own = dict(model.heads.named_parameters())
            own["0.0.weight"].copy_(self.stock.head.weight)
            own["0.0.bias"].copy_(self.stock.head.bias)
        return model

    def check_equal(self) -> None:
        """Raises SystemExit where loss or gradients of a batch differ by more than the dtype's tolerance."""
        batch, ours = self.items[: self.setup.batch_size], self.model()
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

    def ours_seconds(self, folder: Path) -> list[float]:
        """Steps of the Trainer that `prefixrack train` runs."""
        settings = self._settings(folder)
        times = StepTimes(self.device)
        trainer = PromptTrainer(
            items=self.items,
            dev=[],
            settings=settings,
            model=self.model(),
            args=training_arguments(settings, folder, self.device, has_dev=False),
            callbacks=[times],
        )
        trainer.train()
        return times.seconds

    def _settings(self, folder: Path) -> TrainSettings:
        return TrainSettings(
            name="contest",
            task="text-classification",
            backbone=folder,
            train_file="",
            dev_file="",
            output=folder,
            prefix_len=self.setup.prefix_len,
            epochs=1,
            batch_size=self.setup.batch_size,
            learning_rate=LEARNING_RATE,
        )

    def stock_seconds(self) -> list[float]:
        """The same steps by hand, collation included."""
        self.stock.train()
        optimiser = torch.optim.AdamW(self.stock.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        size = self.setup.batch_size
        batches = [self.items[start : start + size] for start in range(0, len(self.items), size)]
        schedule = get_linear_schedule_with_warmup(optimiser, 1, len(batches))
        starts = []
        for batch in batches:
            synchronise(self.device)
            starts.append(time.perf_counter())
            optimiser.zero_grad()
            self.stock(*self._padded(batch)).backward()
            nn.utils.clip_grad_norm_(self.stock.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        return [after - before for before, after in pairwise(starts)][WARM_STEPS:]

    def _padded(self, batch: Sequence[Item]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [item.rows[0].token_ids for item in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        return ids, mask, torch.tensor([item.target for item in batch], device=self.device)


def measure(contest: Contest) -> dict[str, float]:
    """Medians over all steps of all rounds, the two taking turns."""
    contest.check_equal()
    ours: list[float] = []
    stock: list[float] = []
    for _ in track(range(contest.setup.rounds), contest.setup.histogram, console=stderr, transient=True):
        with tempfile.TemporaryDirectory(prefix="prefixrack-training-") as folder:
            ours += contest.ours_seconds(Path(folder))
        stock += contest.stock_seconds()
    seen = {"step_ms": statistics.median(ours) * 1000, "stock_step_ms": statistics.median(stock) * 1000}
    return {
        **{name: round(value, 2) for name, value in seen.items()},
        "ratio": round(seen["step_ms"] / seen["stock_step_ms"], 3),
    }


def main(
    histogram: Annotated[list[str] | None, typer.Option(help="equal, natural, one long; all by default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Of the frozen backbone; both by default.")] = None,
    prefix_len: int = 32,
    steps: Annotated[int, typer.Option(help="In a round.")] = 12,
    rounds: int = 3,
    backbone: str = EMBEDDED,
    device: str = "auto",
    seed: int = 13,
) -> None:
    """Time training steps, ours and by hand."""
    place, folder = resolve_device(device), resolve_backbone(backbone)
    for name in histogram or HISTOGRAMS:
        for one in dtype or ("float32", "bfloat16"):
            setup = Setup(name, one, torch.get_num_threads(), prefix_len, BATCH_SIZE, steps, rounds)
            result = measure(Contest(folder, setup, place, seed))
            line = {"commit": git_commit(), "device": device_name(place), "setup": vars(setup), "result": result}
            typer.echo(json.dumps(line))
            stderr.print(
                f"{name}, {one}: {result['step_ms']} ms against {result['stock_step_ms']} ms, {result['ratio']} ×"
            )


if __name__ == "__main__":
    typer.run(main)
