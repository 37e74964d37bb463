"""Checkpoints as the original P-Tuning v2 code leaves them, made from tiny backbones with random trained tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
POOLED = ("SequenceClassification", "MultipleChoice")
HIDDEN, LAYERS = 32, 2  # of the tiny backbones
PREFIXES = ("prefix_encoder.embedding.weight", "prefix_encoder.weight")


class CallsCode:
    """Unpickling it would create a file: what a hostile checkpoint does."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def trained_tensors(
    architecture: str, prefix_len: int = 5, num_outputs: int = 2, projection: int = 0, seed: int = 0
) -> State:
    """What training added, by its name in the checkpoint. `projection` is the reparameterization's width, 0: none."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    head = "qa_outputs" if architecture.endswith("QuestionAnswering") else "classifier"
    state = {f"{head}.weight": normal(num_outputs, HIDDEN), f"{head}.bias": normal(num_outputs)}
    if architecture.startswith("Deberta") and architecture.endswith(POOLED):
        state |= {"pooler.dense.weight": normal(HIDDEN, HIDDEN), "pooler.dense.bias": normal(HIDDEN)}
    width = 2 * LAYERS * HIDDEN
    if "Prompt" in architecture:
        return state | {"prefix_encoder.weight": normal(prefix_len, HIDDEN)}
    if not projection:
        return state | {"prefix_encoder.embedding.weight": normal(prefix_len, width)}
    return state | {
        "prefix_encoder.embedding.weight": normal(prefix_len, HIDDEN),
        "prefix_encoder.trans.0.weight": 0.3 * normal(projection, HIDDEN),
        "prefix_encoder.trans.0.bias": normal(projection),
        "prefix_encoder.trans.2.weight": 0.3 * normal(width, projection),
        "prefix_encoder.trans.2.bias": normal(width),
    }


def frozen_tensors(backbone: Path, architecture: str) -> State:
    """The backbone's tensors under a task model's names; --prompt models repeat the embeddings beside the backbone."""
    base = load_file(backbone / "model.safetensors")
    config = json.loads((backbone / "config.json").read_text())
    prefix = "deberta." if config["model_type"].startswith("deberta") else f"{config['model_type']}."
    has_pooler = architecture.endswith(POOLED)
    state = {f"{prefix}{name}": one for name, one in base.items() if has_pooler or not name.startswith("pooler.")}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(config["max_position_embeddings"])[None]
    if "Prompt" in architecture:
        state |= {name: one for name, one in base.items() if name.startswith("embeddings.")}
    return state


def write_checkpoint(
    folder: Path,
    backbone: Path,
    architecture: str = "BertPrefixForSequenceClassification",
    *,
    config: Mapping[str, Any] | None = None,
    changes: Mapping[str, Tensor] | None = None,
    as_safetensors: bool = False,
    **options: Any,
) -> State:
    """Write a checkpoint folder with the pickles that lie in real ones; returns its trained tensors.

    `config` changes config.json, `changes` the stored tensors. Opening a pickle beside the model is found out: it
    would create `opened` in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = trained_tensors(architecture, **options)
    prefix_len = len(next(one for name, one in own.items() if name in PREFIXES))
    fields = {"architectures": [architecture], "pre_seq_len": prefix_len, "id2label": {"0": "no", "1": "yes"}}
    base_config = json.loads((backbone / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(base_config | fields | dict(config or {})))
    state = frozen_tensors(backbone, architecture) | own | dict(changes or {})
    if as_safetensors:
        save_file({name: one.contiguous().clone() for name, one in state.items()}, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save(CallsCode(folder / "opened"), folder / name)
    return own


def without_pooler(backbone: Path, folder: Path) -> Path:
    """A copy of a backbone that lacks the pooler, as published RoBERTa weights do."""
    shutil.copytree(backbone, folder)
    base = load_file(backbone / "model.safetensors")
    kept = {name: one for name, one in base.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_two_towers(path: Path, prefix_len: int = 3, is_prompt: bool = False, **state: Any) -> State:
    """A file of PT-Retrieval: both towers' prefixes, or prompts, in the state that its trainer saves."""
    generator = torch.Generator().manual_seed(1)
    name, width = ("weight", HIDDEN) if is_prompt else ("embedding.weight", 2 * LAYERS * HIDDEN)
    towers = {
        f"{module}.prefix_encoder.{name}": torch.randn((prefix_len, width), generator=generator)
        for module in ("question_model", "ctx_model")
    }
    rest: dict[str, Any] = {"optimizer_dict": None, "scheduler_dict": None, "offset": 0, "epoch": 3}
    torch.save({"model_dict": towers, **rest, "encoder_params": {"do_lower_case": True}} | state, path)
    return towers
