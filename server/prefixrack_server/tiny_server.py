"""A real server for other people's tests: a two-layer backbone and adapters of random weights, made in a second.

What it answers has the right form and is the same each time; it means nothing. `prefixrack.testing` starts it:
`python -m prefixrack_server.tiny_server FOLDER PORT ADAPTERS`, the last one JSON: `{"name": {"task", "labels"}}`.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.manifest import (
    BackboneRef,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.commands import run
from prefixrack_server.config import load_config

MAX_POSITIONS = 512
PREFIX_LEN = 4
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WITHOUT_LABELS = ("question-answering", "multiple-choice", "text-embedding")
NUM_OUTPUTS = {"question-answering": 2, "multiple-choice": 1}
PER_TOKEN = ("token-classification", "question-answering")


def serve_tiny(folder: Path, port: int, adapters: Mapping[str, Mapping[str, Any]]) -> None:
    """Make everything in `folder`, and serve it on the loopback interface, open to everybody on this machine."""
    backbone = write_tiny_backbone(folder / "backbone")
    spec = BackboneSpec.load(backbone)
    (folder / "adapters").mkdir()
    for seed, (name, wanted) in enumerate(adapters.items()):
        write_tiny_bundle(folder / "adapters" / name, spec, name, wanted["task"], wanted["labels"], seed)
    run(
        load_config(
            {
                "http": {"host": "127.0.0.1", "port": port, "auth": "none", "log_level": "warning", "workers": 0},
                "backbone": {"path": str(backbone), "device": "cpu", "dtype": "float32"},
                "registry": {"state_dir": folder / "state", "adapters_dir": folder / "adapters"},
            }
        )
    )


def write_tiny_backbone(folder: Path) -> Path:
    """A BERT of two layers, 32 wide, whose words are single characters."""
    import torch
    from transformers import BertConfig, BertModel

    vocabulary = _vocabulary()
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.3,  # large enough that different texts get clearly different answers
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text('{"cls_token": "[CLS]", "sep_token": "[SEP]"}')
    return folder


def write_tiny_bundle(folder: Path, spec: BackboneSpec, name: str, task: str, labels: list[str], seed: int) -> None:
    """An adapter of random weights for that task. Raises ValidationError for a task or labels that cannot be."""
    is_per_token = task in PER_TOKEN
    layers = [] if task == "text-embedding" else [DenseLayer(num_outputs=NUM_OUTPUTS.get(task, len(labels)))]
    manifest = Manifest(
        name=name,
        task=task,
        labels=[] if task in WITHOUT_LABELS else list(labels),
        backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
        prefix=PrefixSpec(
            prefix_len=PREFIX_LEN,
            num_layers=spec.num_layers,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            positions="after_prefix",
        ),
        head=HeadSpec(gather="every_token" if is_per_token else "first_token", layers=layers),
        tokenization=TokenizationSpec(
            max_len=MAX_POSITIONS - PREFIX_LEN, stride=64, overlong="window" if is_per_token else "error"
        ),
        provenance=Provenance(tool="prefixrack.testing", tool_version="0", method="random"),
    )
    random = np.random.default_rng(seed)
    shapes = manifest.tensor_shapes(spec.hidden_size)
    tensors = {tensor: random.normal(0, 1.0, shape).astype(np.float32) for tensor, shape in shapes.items()}
    write_bundle(folder, manifest, tensors)


def _vocabulary() -> dict[str, int]:
    letters = string.ascii_lowercase + string.digits
    pieces = [*SPECIALS, *letters, *string.punctuation, *(f"##{letter}" for letter in letters)]
    return {piece: index for index, piece in enumerate(pieces)}


if __name__ == "__main__":
    serve_tiny(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
