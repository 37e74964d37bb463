"""The backbones that are measured: MiniLM as it is packaged, and larger shapes with seeded random weights."""

from __future__ import annotations

import shutil
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone

# Layers, width, heads. What a random backbone computes means nothing; what it costs does not depend on the weights.
RANDOM_SHAPES = {"bert-base": (12, 768, 12), "bert-large": (24, 1024, 16)}
SHAPES = ("minilm", *RANDOM_SHAPES)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD_LEN = 4
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
    """With the tokenizer of MiniLM, whose vocabulary is that of the shape's original, or where it is not installed with
    one of as many made-up words: texts are of whole words, so both cut them into as many tokens."""
    config = BertConfig(
        num_hidden_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    try:
        embedded = resolve_backbone(EMBEDDED)
    except UnsupportedBackbone:
        write_made_up_tokenizer(folder, config.vocab_size)
        return folder
    for name in TOKENIZER_FILES:
        shutil.copy(embedded / name, folder)
    return folder


def write_made_up_tokenizer(folder: Path, vocab_size: int) -> None:
    words = map("".join, product(ascii_lowercase, repeat=WORD_LEN))
    tokens = [*SPECIAL_TOKENS, *islice(words, vocab_size - len(SPECIAL_TOKENS))]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.save(str(folder / "tokenizer.json"))
