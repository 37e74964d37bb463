"""Families: how each architecture's frozen model is taken apart for packs. Loads torch.

`architectures.py` says what a config means; a class here, under the same `model_type`, how the model computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from prefixrack_adapters.families.base import Family
from prefixrack_adapters.families.bert import Bert
from prefixrack_adapters.families.deberta import Deberta
from prefixrack_adapters.families.deberta_v2 import DebertaV2
from prefixrack_adapters.families.decoders import Decoder, Gpt2
from prefixrack_adapters.families.distilbert import DistilBert
from prefixrack_adapters.families.glm2021 import Glm2021
from prefixrack_adapters.families.modernbert import ModernBert
from prefixrack_adapters.families.stock import Encoder

FAMILIES: Mapping[str, type[Family]] = {
    "albert": Encoder,
    "bert": Bert,
    "deberta": Deberta,
    "deberta-v2": DebertaV2,
    "distilbert": DistilBert,
    "electra": Bert,
    "glm": Decoder,
    "glm-2021": Glm2021,
    "glm4": Decoder,
    "gpt2": Gpt2,
    "llama": Decoder,
    "modernbert": ModernBert,
    "qwen2": Decoder,
    "qwen3": Decoder,
    "roberta": Bert,
    "xlm-roberta": Bert,
}

__all__ = ["FAMILIES", "Family", "load_family", "load_family_for_inference"]


def load_family(folder: Path, model_type: str, dtype: torch.dtype) -> Family:
    """The frozen model of a backbone folder, on the CPU, memory-mapped."""
    return FAMILIES[model_type].load(folder, dtype)


def load_family_for_inference(folder: Path, model_type: str, dtype: torch.dtype) -> Family:
    """The same, to be optimised or quantised before the first pass."""
    return FAMILIES[model_type].load_for_inference(folder, dtype)
