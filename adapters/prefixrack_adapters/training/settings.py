"""What a training run is asked to do. Pure data; knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prefixrack.types import TaskName
from prefixrack_adapters.formats import PLAIN
from prefixrack_adapters.manifest import MAX_EXAMPLES
from prefixrack_adapters.names import AdapterName

Method = Literal["p-tuning-v2", "prompt-tuning", "multitask", "fine-tuning", "head-only"]
Problem = Literal["single_label", "multi_label", "regression"]

# Scored and reported, but never written as a bundle: one trains the backbone itself, the other leaves it as it was.
BASELINES = ("fine-tuning", "head-only")
# Where a run does not name one; docs/training.md shows the sweep behind them.
LEARNING_RATES: Mapping[Method, float] = {
    "p-tuning-v2": 1e-2,
    "prompt-tuning": 3e-2,
    "multitask": 1e-2,
    "fine-tuning": 1e-4,
    "head-only": 1e-2,
}
MLP_RATE = 5e-4  # of a prefix that an MLP makes: at the rates of raw vectors it does not learn


class TrainSettings(BaseModel):
    """One run on one data set. `source` and the like only describe it; the rest shapes the result.

    `batch_size` examples make a step; with `batch_tokens` a step has about so many tokens instead, however many
    examples that is. A step is computed in packs of at most `pack_tokens` tokens: that bounds memory and changes no
    result but for what the backbone's own dropout draws, which `backbone_dropout` switches off. `learning_rate` None is
    the method's own, `head_learning_rate` None the same as that, `labels` None those that occur in the training data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: AdapterName
    task: TaskName
    backbone: Path
    train_file: str
    dev_file: str
    train_split: str = "train"
    dev_split: str = "validation"
    output: Path
    columns: dict[str, str] = {}
    input_format: str = PLAIN
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    description: str = ""
    licence: str | None = None
    num_examples: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)] = 0
    dataset: str = ""
    source: str = ""
    method: Method = "p-tuning-v2"
    prefix_len: Annotated[int, Field(ge=0, le=512)] = 32
    prefix_layers: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    reparameterization: Literal["none", "mlp"] = "none"
    reparameterization_size: Annotated[int, Field(ge=1)] = 96
    prefix_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    backbone_dropout: bool = True
    prefix_init: Literal["normal", "words"] = "normal"
    init_from: Path | None = None
    head: Literal["linear", "pooler"] = "linear"
    pooling: Literal["first_token", "last_token", "mean_tokens"] | None = None
    epochs: Annotated[int, Field(ge=1)] = 10
    tune_epochs: Annotated[int, Field(ge=0)] = 0
    tune_learning_rate: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=1)] = 32
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    pack_tokens: Annotated[int, Field(ge=1)] = 16384
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    max_len: Annotated[int, Field(ge=8)] = 128
    stride: Annotated[int, Field(ge=0)] = 64
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    prefix_dtype: Literal["float32", "float16"] = "float16"
    trackers: tuple[str, ...] = ()
    command: str = ""

    @model_validator(mode="after")
    def _check_prefix(self) -> Self:
        if self.method == "prompt-tuning" and not self.prefix_len:
            raise ValueError("prefix_len is 0, but prompt-tuning trains nothing else in front of a row: 1 at least")
        if self.method != "p-tuning-v2" and self.method != "multitask":
            given = {
                "prefix_layers": self.prefix_layers is not None,
                "reparameterization": self.reparameterization == "mlp",
                "prefix_init": self.prefix_init == "words",
            }
            wrong = [name for name, is_given in given.items() if is_given]
            if wrong:
                raise ValueError(f"{wrong[0]} was given, but method {self.method!r} has no prefix in the layers")
        if self.prefix_init == "words" and (self.reparameterization == "mlp" or self.init_from is not None):
            other = "init_from" if self.reparameterization == "none" else "reparameterization"
            raise ValueError(f"prefix_init is 'words', but {other} says how the prefix starts: give one of the two")
        return self

    @property
    def rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return MLP_RATE if self.reparameterization == "mlp" else LEARNING_RATES[self.method]

    @property
    def head_rate(self) -> float:
        return self.rate if self.head_learning_rate is None else self.head_learning_rate

    @property
    def tune_rate(self) -> float:
        """Of multi-task training's second phase, whose prefix is no longer made by an MLP."""
        return self.tune_learning_rate or self.learning_rate or LEARNING_RATES[self.method]

    @property
    def is_baseline(self) -> bool:
        return self.method in BASELINES

    @property
    def has_deep_prefix(self) -> bool:
        return self.method in ("p-tuning-v2", "multitask") and self.prefix_len > 0
