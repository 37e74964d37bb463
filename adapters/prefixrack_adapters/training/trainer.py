"""One training run: data → items → transformers' Trainer → the best checkpoint. Knows no files of bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.attention import RowLoop
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.devices import fastest_dtype, resolve_device
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.padded_attention import PaddedAttention
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.activations import word_activations
from prefixrack_adapters.training.batches import BatchSampler
from prefixrack_adapters.training.contrastive import ContrastiveObjective
from prefixrack_adapters.training.data import Example
from prefixrack_adapters.training.memory import (
    MAX_EVALUATION_TOKENS,
    evaluate,
    random_states,
    release,
    restore_random_states,
    too_little,
)
from prefixrack_adapters.training.model import Arrays, Encoder, Part, PromptModel, load_pooler
from prefixrack_adapters.training.objectives import (
    AnswerObjective,
    ChoiceObjective,
    Item,
    Objective,
    TextObjective,
    TokenObjective,
)
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder, PromptEncoder
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import LAST_FILE, last_checkpoint

LOGGED_STEPS = 20  # between two entries of the log, which has the first step too

OBJECTIVES: dict[str, type[Objective]] = {
    "text-classification": TextObjective,
    "token-classification": TokenObjective,
    "question-answering": AnswerObjective,
    "multiple-choice": ChoiceObjective,
    "text-embedding": ContrastiveObjective,
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """What one part of a run learns from, and what its adapter's manifest will be."""

    manifest: Manifest
    train: Sequence[Example]
    dev: Sequence[Example]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """`history`: the main dev score of every epoch; `log`: all that the run recorded; `best_epoch` counts from 1.

    `stopped_early`: epochs were left, but dev had not got better for as many as the patience says.
    """

    model: PromptModel
    history: list[float]
    log: list[dict[str, float]]
    best_epoch: int
    num_trained: int
    num_skipped: int
    stopped_early: bool


class Items(Dataset[Item]):
    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


class BestCheckpoint(TrainerCallback):
    """Of a run that is gone on with: where its best checkpoint lies now, which may have been another path before."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.best_global_step is not None:
            state.best_model_checkpoint = str(Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}")


class PromptTrainer(Trainer):
    """transformers' Trainer, with batches and packs of our own, that scores dev through the serving path."""

    def __init__(
        self, *, items: Sequence[Item], dev: Sequence[Sequence[Example]], settings: TrainSettings, **options: Any
    ) -> None:
        super().__init__(train_dataset=Items(items), eval_dataset=Items([]), data_collator=_collate, **options)
        self._items = items
        self._dev = dev
        self._settings = settings
        self.pack_tokens = settings.pack_tokens
        self.remove_callback(PrinterCallback)  # prints every log line through our progress bar

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's own, with the heads, which begin at random, in groups that may have another rate."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        heads = {id(values) for values in self._model.heads.parameters()}
        for group in list(optimizer.param_groups):
            own = [values for values in group["params"] if id(values) in heads]
            group["params"] = [values for values in group["params"] if id(values) not in heads]
            optimizer.add_param_group({**group, "params": own, "lr": self._settings.head_rate})
        return optimizer

    def get_train_dataloader(self) -> DataLoader[Item]:
        settings = self._settings
        lengths = [item.num_tokens for item in self._items]
        sampler = BatchSampler(lengths, settings.batch_size, settings.batch_tokens, settings.seed)
        loader = DataLoader(Items(self._items), batch_sampler=sampler, collate_fn=_collate)
        prepared: DataLoader[Item] = self.accelerator.prepare(loader)
        return prepared

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Gradients of one batch. Out of memory, it is done again in packs of half the tokens, from where it began."""
        before = [None if part.grad is None else part.grad.clone() for part in model.parameters()]
        drawn = random_states()
        while True:
            try:
                return self._accumulate(model, inputs["items"], drawn)
            except torch.OutOfMemoryError:
                self._halve(inputs["items"])
            for part, gradient in zip(model.parameters(), before, strict=True):
                part.grad = None if gradient is None else gradient.clone()
            restore_random_states(drawn)
            release()

    def _accumulate(self, model: nn.Module, items: Sequence[Item], drawn: Sequence[Tensor]) -> Tensor:
        packs = item_packs(items, self.pack_tokens) if self._model.is_divisible else [list(items)]
        losses = []
        for number, pack in enumerate(packs):
            if number and self._model.backbone_model is None:
                # Every row loses the same values of the prefix in whichever pack it is. What the backbone drops then
                # comes from the same numbers too, over other tokens: no row meets a mask twice.
                restore_random_states(drawn)
            losses.append(super().training_step(model, {"items": pack, "batch": items}))
        return torch.stack(losses).sum()

    def _halve(self, items: Sequence[Item]) -> None:
        """Raises InvalidRequest where there is nothing left to halve."""
        num_tokens = sum(item.num_tokens for item in items)
        longest = max(item.num_tokens for item in items)
        if not self._model.is_divisible or min(self.pack_tokens, num_tokens) <= longest:
            raise too_little(f"{longest if self._model.is_divisible else num_tokens} tokens") from None
        self.pack_tokens = max(longest, min(self.pack_tokens, num_tokens) // 2)
        self.log({"pack_tokens": float(self.pack_tokens)})

    @property
    def _model(self) -> PromptModel:
        model: PromptModel = self.accelerator.unwrap_model(self.model)
        return model

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Every part's scores on its dev examples; the main one is the mean of the parts'."""
        model = self._model.eval()
        max_tokens = min(self.pack_tokens, MAX_EVALUATION_TOKENS)
        results = [
            evaluate(model.backbone, model.adapter(part), examples, max_tokens)
            for part, examples in enumerate(self._dev)
        ]
        logged = {"eval_main": sum(result.value for result in results) / len(results)}
        for part, result in zip(model.parts, results, strict=True):
            where = f"{part.manifest.name}/" if len(results) > 1 else ""
            logged |= {f"eval_{where}{name}": value for name, value in result.scores.items()}
        self.log(logged)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
        return logged


def item_packs(items: Sequence[Item], max_tokens: int) -> list[list[Item]]:
    """Items in packs of at most `max_tokens` tokens, longest first; a longer item goes alone."""
    packs: list[list[Item]] = []
    room = 0
    for item in sorted(items, key=lambda item: -item.num_tokens):
        if not packs or item.num_tokens > room:
            packs.append([])
            room = max_tokens
        packs[-1].append(item)
        room -= item.num_tokens
    return packs


def training_backbone(settings: TrainSettings) -> Backbone:
    """The backbone in the dtype that trains fastest on this device; fine-tuning keeps its weights in float32."""
    device = resolve_device(settings.device)
    dtype: str = settings.dtype
    if settings.method == "fine-tuning":
        dtype = "float32"
    elif dtype == "auto":
        dtype = fastest_dtype(device)
    backbone = Backbone.load(settings.backbone, device, dtype)
    backbone.attention = RowLoop(torch.float32) if device == "cpu" else PaddedAttention()
    return backbone


def train_prompt(
    settings: TrainSettings,
    backbone: Backbone,
    data: Sequence[DataSet],
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    start: Arrays | None = None,
) -> TrainingResult:
    """Train until dev stops improving or the epochs are over; the best epoch's tensors are in the result's model.

    `folder` keeps checkpoints; one that is there already is gone on from, with the same result as without the break.
    `start` are tensors of a bundle to begin with.
    """
    model, items = beginning(settings, backbone, data, start)
    trainer = PromptTrainer(
        items=items,
        dev=[one.dev for one in data],
        settings=settings,
        model=model,
        args=training_arguments(settings, folder, backbone.device),
        callbacks=[EarlyStoppingCallback(settings.patience), BestCheckpoint(), *callbacks],
    )
    _train(trainer, last_checkpoint(folder))
    return result_of(model, trainer.state.log_history, settings.epochs)


def beginning(
    settings: TrainSettings, backbone: Backbone, data: Sequence[DataSet], start: Arrays | None
) -> tuple[PromptModel, list[Item]]:
    """What a run begins with: its model, drawn by its seed or taken from `start`, and what it is trained on."""
    set_seed(settings.seed)
    parts = [_part(backbone, one.manifest, index) for index, one in enumerate(data)]
    items = [item for part, one in zip(parts, data, strict=True) for item in _items(part, one)]
    model = _build_model(settings, backbone, parts)
    if not any(part.requires_grad for part in model.parameters()):
        raise InvalidRequest(
            f"method {settings.method!r} has nothing to train for task {settings.task!r}, whose vectors are the "
            "backbone's own: use a method with a prefix, and a --prefix-len"
        )
    if start is not None:
        model.start_from(start)
    return model, items


def _train(trainer: PromptTrainer, checkpoint: Path | None) -> None:
    """Go on from a checkpoint, if any. One of a run that had made up its mind to stop is the end of it."""
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / LAST_FILE))
    if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
        trainer.args.num_train_epochs = round(state.epoch or 0)
    trainer.train(resume_from_checkpoint=str(checkpoint))


def _items(part: Part, data: DataSet) -> list[Item]:
    items = part.objective.items(data.train)
    if not items:
        raise InvalidRequest(
            f"none of the {len(data.train)} training examples of {part.manifest.name} can be trained on: their texts "
            "are empty, or leave no room in --max-len"
        )
    return items


def _part(backbone: Backbone, manifest: Manifest, index: int) -> Part:
    task = build_task(manifest, backbone.spec, backbone.tokenizer)
    return Part(manifest, OBJECTIVES[manifest.task](manifest, task, index))


def result_of(model: PromptModel, log: list[dict[str, float]], epochs: int) -> TrainingResult:
    """`epochs`: as many as there could have been."""
    history = [float(entry["eval_main"]) for entry in log if "eval_main" in entry]
    num_trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
    num_skipped = sum(part.objective.num_skipped for part in model.parts)
    best_epoch = history.index(max(history)) + 1
    return TrainingResult(model, history, log, best_epoch, num_trained, num_skipped, len(history) < epochs)


def _collate(items: list[Item]) -> dict[str, Any]:
    return {"items": items}


def _build_model(settings: TrainSettings, backbone: Backbone, parts: Sequence[Part]) -> PromptModel:
    encoder = _encoder(settings, backbone, parts[0].manifest)
    model = PromptModel(backbone, parts, encoder, settings.method == "fine-tuning", settings.backbone_dropout)
    for part, head in zip(parts, model.heads, strict=True):
        if len(part.manifest.head.layers) > 1:
            load_pooler(head, settings.backbone)
    return model


def _encoder(settings: TrainSettings, backbone: Backbone, manifest: Manifest) -> Encoder | None:
    prefix = manifest.prefix
    if prefix.kind == "soft":
        words = backbone.family.words(torch.arange(backbone.spec.vocab_size, device=backbone.device))
        return PromptEncoder(prefix.prefix_len, words)
    if not prefix.prefix_len:
        return None
    mlp_size = settings.reparameterization_size if settings.reparameterization == "mlp" else None
    encoder = PrefixEncoder(prefix, backbone.spec.hidden_size, mlp_size, settings.prefix_dropout)
    encoder.to(backbone.device)
    if settings.prefix_init == "words":
        encoder.start_from(word_activations(backbone, prefix.prefix_len, encoder.layers, settings.seed))
    return encoder


def training_arguments(settings: TrainSettings, folder: Path, device: str, has_dev: bool = True) -> TrainingArguments:
    """Without dev there is nothing to choose a checkpoint by: none is written."""
    strategy = "epoch" if has_dev else "no"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        bf16=settings.method == "fine-tuning" and settings.dtype == "bfloat16",
        eval_strategy=strategy,
        save_strategy=strategy,
        save_total_limit=2,  # the best and the last; with 1 the last goes at the end, and a resumed run trains again
        load_best_model_at_end=has_dev,
        metric_for_best_model="eval_main",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="steps",
        logging_steps=LOGGED_STEPS,
        logging_first_step=True,
        report_to=list(settings.trackers),
        run_name=settings.name,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=device == "cpu",
        seed=settings.seed,
    )
    keep_to_device(arguments, torch.device(device))
    return arguments


def keep_to_device(arguments: TrainingArguments, device: torch.device) -> None:
    """Train where the backbone is. It is no part of the trained module, which transformers takes to the first GPU, and
    whose batches it spreads over all GPUs that there are."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if device.type == "cuda" and device.index is not None:
        arguments._setup_devices = device  # what that property has cached
        arguments.distributed_state.device = device  # accelerate's, which all parts of the Trainer share
        if torch.cuda.is_available():
            torch.cuda.set_device(device)
