"""The backbones that are measured: MiniLM as it is packaged, and larger shapes with seeded random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone

# Layers, width, heads. What a random backbone computes means nothing; what it costs does not depend on the weights.
RANDOM_SHAPES = {"bert-base": (12, 768, 12), "bert-large": (24, 1024, 16)}
SHAPES = ("minilm", *RANDOM_SHAPES)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def backbone_folder(shape: str, work: Path) -> Path:
    """The folder of one of SHAPES, written under `work` where it is random, or the folder that `shape` names."""
    if shape == "minilm":
        return resolve_backbone(EMBEDDED)
    if shape in RANDOM_SHAPES:
        return _write_random(work / shape, *RANDOM_SHAPES[shape])
    if not Path(shape).is_dir():
        raise SystemExit(f"backbone {shape!r} is neither a folder nor one of {', '.join(SHAPES)}")
    return Path(shape)


def _write_random(folder: Path, num_layers: int, hidden_size: int, num_heads: int) -> Path:
    """With the tokenizer of MiniLM, whose vocabulary is that of the shape's original."""
    config = BertConfig(
        num_hidden_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(resolve_backbone(EMBEDDED) / name, folder)
    return folder
