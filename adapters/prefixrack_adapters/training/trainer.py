"""One training run: data → items → transformers' Trainer → the best checkpoint → adapter. Knows no files of bundles."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from prefixrack_adapters.attention import RowLoop
from prefixrack_adapters.backbone import Backbone, resolve_device
from prefixrack_adapters.evaluation import Evaluation, evaluate
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.data import Example
from prefixrack_adapters.training.model import PromptModel, load_pooler
from prefixrack_adapters.training.objectives import OBJECTIVES, Item, Objective
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder
from prefixrack_adapters.training.settings import TrainSettings


class Items(Dataset[Item]):
    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """`history` holds one Evaluation per epoch, `best_epoch` counts from 1."""

    model: PromptModel
    history: list[Evaluation]
    best_epoch: int
    num_trained: int
    num_skipped: int


class PromptTrainer(Trainer):
    """transformers' Trainer whose evaluation answers the dev examples through the serving path."""

    def __init__(self, *, dev: Sequence[Example], history: list[Evaluation], **options: Any) -> None:
        super().__init__(**options)
        self._dev = dev
        self._history = history

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        model: Any = self.accelerator.unwrap_model(self.model)
        model.eval()
        result = evaluate(model.backbone, model.adapter(), self._dev)
        self._history.append(result)
        metrics = {"eval_main": result.value} | {f"eval_{name}": value for name, value in result.scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def training_backbone(settings: TrainSettings) -> Backbone:
    """The frozen backbone in the dtype that trains fastest on this device; fine-tuning keeps float32 weights."""
    device = resolve_device(settings.device)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if settings.method == "p-tuning-v2" and _has_fast_bfloat16(device) else "float32"
    backbone = Backbone.load(settings.backbone, device, dtype)
    backbone.attention = RowLoop(torch.float32 if device == "cpu" else None)
    return backbone


def _has_fast_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train_prompt(
    settings: TrainSettings,
    backbone: Backbone,
    manifest: Manifest,
    train: Sequence[Example],
    dev: Sequence[Example],
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train until dev stops improving or the epochs are over; the best epoch's tensors are in the result's model."""
    set_seed(settings.seed)
    objective = OBJECTIVES[manifest.task](manifest, build_task(manifest, backbone.spec, backbone.tokenizer))
    items = objective.items(train)
    model = _build_model(settings, backbone, manifest, objective)
    history: list[Evaluation] = []
    with tempfile.TemporaryDirectory(prefix="prefixrack-train-") as folder:
        trainer = PromptTrainer(
            dev=dev,
            history=history,
            model=model,
            args=_arguments(settings, Path(folder), len(items), backbone.device),
            train_dataset=Items(items),
            eval_dataset=Items([]),
            data_collator=_collate,
            callbacks=[EarlyStoppingCallback(settings.patience), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)  # prints every log line through our progress bar
        trainer.train()
    values = [result.value for result in history]
    num_trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
    return TrainingResult(model, history, values.index(max(values)) + 1, num_trained, objective.num_skipped)


def _collate(items: list[Item]) -> dict[str, Any]:
    """Sorted by length: rows of equal length then share an attention call."""
    return {"items": sorted(items, key=lambda item: len(item.rows[0]))}


def _build_model(settings: TrainSettings, backbone: Backbone, manifest: Manifest, objective: Objective) -> PromptModel:
    encoder = None
    if manifest.prefix.prefix_len:
        mlp_size = settings.reparameterization_size if settings.reparameterization == "mlp" else None
        encoder = PrefixEncoder(backbone.spec, manifest.prefix.prefix_len, mlp_size, settings.prefix_dropout)
        encoder.to(backbone.device)
    model = PromptModel(backbone, manifest, objective, encoder, settings.method == "fine-tuning")
    if len(manifest.head.layers) > 1:
        load_pooler(model, settings.backbone)
    return model


def _arguments(settings: TrainSettings, folder: Path, num_items: int, device: str) -> TrainingArguments:
    num_steps = settings.epochs * math.ceil(num_items / settings.batch_size)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * num_steps),
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_main",
        greater_is_better=True,
        logging_strategy="steps",
        logging_steps=20,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=device == "cpu",
        seed=settings.seed,
    )
