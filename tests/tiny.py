"""Small seeded parts for tests: backbones with random weights, a tokenizer with a vocabulary of its own, adapters."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from prefixrack.errors import InputFault
from prefixrack.types import Parameters
from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.manifest import (
    BackboneRef,
    DecodingSpec,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask

TEXT = "the a of in is was born where who when ada paris london city river street rain cat dog sat on mat"
WORDS = tuple(TEXT.split())
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_POSITIONS = 192
MakeTask = Callable[..., AnyTask]
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra")


def vocabulary() -> dict[str, int]:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation, "東", "京", "é"]
    pieces = [*SPECIALS, *WORDS, *letters, *(f"##{letter}" for letter in string.ascii_lowercase + string.digits)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def write_tokenizer(folder: Path, double_separator: bool = False) -> None:
    """A WordPiece tokenizer, with truncation and padding baked in as many published ones have."""
    vocab = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    middle = "[SEP]:0 [SEP]:0" if double_separator else "[SEP]:0"
    second = 0 if double_separator else 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair=f"[CLS]:0 $A:0 {middle} $B:{second} [SEP]:{second}",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_backbone(folder: Path, family: str = "bert", seed: int = 0) -> Path:
    """A random two-layer backbone with a tokenizer, as `save_pretrained` writes it."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    is_roberta = "roberta" in family
    options: dict[str, Any] = {"embedding_size": 24} if family == "electra" else {}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=MAX_POSITIONS,
        type_vocab_size=1 if is_roberta else 2,
        pad_token_id=1 if is_roberta else 0,
        initializer_range=0.3,
        **options,
    )
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    write_tokenizer(folder, double_separator=is_roberta)
    return folder


def make_manifest(
    spec: BackboneSpec,
    name: str = "tiny",
    task: str = "text-classification",
    labels: tuple[str, ...] = ("no", "yes"),
    prefix_len: int = 4,
    max_len: int = 48,
    decoding: Mapping[str, Any] | None = None,
    positions: str = "after_prefix",
    has_pooler: bool = False,
    **tokenization: Any,
) -> Manifest:
    num_outputs = {"question-answering": 2, "multiple-choice": 1}.get(task, len(labels))
    problem = (decoding or {}).get("problem")
    if problem == "regression":
        num_outputs, labels = 1, ()
    if task in ("question-answering", "multiple-choice"):
        labels = ()
    gather = "every_token" if task in ("token-classification", "question-answering") else "first_token"
    pooler = [DenseLayer(num_outputs=spec.hidden_size, activation="tanh")] if has_pooler else []
    is_windowed = gather == "every_token"
    rules = {"stride": 8, "overlong": "window" if is_windowed else "error"} | tokenization
    return Manifest(
        name=name,
        task=task,
        labels=list(labels),
        backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
        prefix=PrefixSpec(
            prefix_len=prefix_len,
            num_layers=spec.num_layers,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            positions=positions,
        ),
        head=HeadSpec(gather=gather, layers=[*pooler, DenseLayer(num_outputs=num_outputs)]),
        tokenization=TokenizationSpec(max_len=max_len, **rules),
        decoding=DecodingSpec(**(decoding or {})),
        provenance=Provenance(tool="tests", tool_version="0", method="random"),
    )


def random_arrays(manifest: Manifest, hidden_size: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights large enough that any two seeds give clearly different logits."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0, 1.0, shape).astype(np.float32)
        for name, shape in manifest.tensor_shapes(hidden_size).items()
    }


def write_random_bundle(folder: Path, spec: BackboneSpec, seed: int = 0, **options: Any) -> Path:
    manifest = make_manifest(spec, **options)
    write_bundle(folder, manifest, random_arrays(manifest, spec.hidden_size, seed), card=f"# {manifest.name}\n")
    return folder


def prepare_one(task: AnyTask, value: object, **parameters: Any) -> Any:
    """One input prepared. Raises its fault instead of handing it back."""
    (one,) = task.prepare_many([value], Parameters(**parameters))
    if isinstance(one, InputFault):
        raise one
    return one


def cut(text: str, start: int, end: int, unit: str) -> str:
    """What a caller who counts in `unit` finds between two offsets."""
    if unit == "codepoint":
        return text[start:end]
    if unit == "byte":
        return text.encode()[start:end].decode()
    return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")
