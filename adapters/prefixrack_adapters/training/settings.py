"""What a training run is asked to do. Pure data; knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefixrack.types import TaskName
from prefixrack_adapters.manifest import NAME_PATTERN

Method = Literal["p-tuning-v2", "fine-tuning"]
Problem = Literal["single_label", "multi_label", "regression"]


class TrainSettings(BaseModel):
    """One run. `fine-tuning` trains the whole backbone: a baseline to compare with, never served as an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    task: TaskName
    backbone: Path
    train_file: Path
    dev_file: Path
    output: Path
    columns: dict[str, str] = {}
    description: str = ""
    licence: str | None = None
    dataset: str = ""
    source: str = ""
    method: Method = "p-tuning-v2"
    prefix_len: Annotated[int, Field(ge=0, le=512)] = 32
    reparameterization: Literal["none", "mlp"] = "none"
    reparameterization_size: Annotated[int, Field(ge=1)] = 512
    prefix_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head: Literal["linear", "pooler"] = "linear"
    epochs: Annotated[int, Field(ge=1)] = 10
    patience: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    max_len: Annotated[int, Field(ge=8)] = 128
    stride: Annotated[int, Field(ge=0)] = 64
    seed: int = 13
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    prefix_dtype: Literal["float32", "float16"] = "float16"
    command: str = ""
