"""Small seeded parts for tests: backbones with random weights, a tokenizer with a vocabulary of its own, adapters."""

from __future__ import annotations

import json
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
    PromptSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask

TEXT = "the a of in is was born where who when ada paris london city river street rain cat dog sat on mat"
WORDS = tuple(TEXT.split())
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_POSITIONS = 192
MakeTask = Callable[..., AnyTask]
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra")


# What a family's tiny config has besides, or under other names. Windows are shorter than the rows of most tests.
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": MAX_POSITIONS}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
GROUPED = {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
OWN_OPTIONS: Mapping[str, dict[str, Any]] = {
    "albert": {"embedding_size": 24, "num_hidden_groups": 2},
    "deberta": DEBERTA | {"type_vocab_size": 0},
    "deberta-v2": DEBERTA | {"type_vocab_size": 0, "position_buckets": 8, "share_att_key": True},
    "distilbert": DISTILBERT,
    "electra": {"embedding_size": 24},
    "glm": GROUPED | {"head_dim": 8},
    "glm4": GROUPED | {"head_dim": 8},
    "gpt2": GPT2 | {"bos_token_id": 2, "eos_token_id": 3},
    "llama": GROUPED,
    "modernbert": {"local_attention": 8, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "qwen2": GROUPED | WINDOWS,
    "qwen3": GROUPED | WINDOWS | {"head_dim": 12},
}
DECODERS = ("glm", "glm4", "gpt2", "llama", "qwen2", "qwen3")


def vocabulary() -> dict[str, int]:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation, "東", "京", "é"]
    pieces = [*SPECIALS, *WORDS, *letters, *(f"##{letter}" for letter in string.ascii_lowercase + string.digits)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def write_tokenizer(folder: Path, double_separator: bool = False, specials: bool = True) -> None:
    """A WordPiece tokenizer, with truncation and padding baked in as many published ones have.

    Without `specials` it puts nothing around texts, as tokenizers of decoders do.
    """
    vocab = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    middle = "[SEP]:0 [SEP]:0" if double_separator else "[SEP]:0"
    second = 0 if double_separator else 1
    if specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair=f"[CLS]:0 $A:0 {middle} $B:{second} [SEP]:{second}",
            special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
        )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text('{"cls_token": "[CLS]", "sep_token": "[SEP]"}')


def write_backbone(folder: Path, family: str = "bert", seed: int = 0, **options: Any) -> Path:
    """A random two-layer backbone with a tokenizer, as `save_pretrained` writes it. The options are of its config."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    if family == "glm-2021":
        return write_glm2021(folder, seed, **options)
    is_roberta = "roberta" in family
    fields: dict[str, Any] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": MAX_POSITIONS,
        "type_vocab_size": 1 if is_roberta else 2,
        "pad_token_id": 1 if is_roberta else 0,
        "initializer_range": 0.3,
    }
    config = AutoConfig.for_model(family, **(fields | OWN_OPTIONS.get(family, {}) | options))
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    write_tokenizer(folder, double_separator=is_roberta, specials=family not in DECODERS)
    return folder


def write_glm2021(folder: Path, seed: int = 0, has_tokenizer: bool = True, **options: Any) -> Path:
    """A random GLM of 2021 with SwissArmyTransformer's names and config."""
    import torch
    from safetensors.torch import save_file

    fields = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "inner_hidden_size": 48}
    config = fields | {"vocab_size": len(vocabulary()), "max_sequence_length": MAX_POSITIONS, "model_type": "glm"}
    config |= {"block_position_embedding": True, "naming": "SwissArmyTransformer", "layernorm_order": "pre"} | options
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in glm2021_shapes(config).items()}
    for name in tensors:
        if name.endswith("layernorm.weight"):
            tensors[name] += 1.0
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    if has_tokenizer:
        write_tokenizer(folder)
    return folder


def glm2021_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, positions = config["hidden_size"], config["inner_hidden_size"], config["max_sequence_length"]
    linear = {"attention.query_key_value": (3 * width, width), "attention.dense": (width, width)}
    linear |= {"mlp.dense_h_to_4h": (inner, width), "mlp.dense_4h_to_h": (width, inner)}
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.word_embeddings.weight": (config["vocab_size"], width),
        "transformer.position_embeddings.weight": (positions, width),
        "mixins.block_position_embedding.block_position_embeddings.weight": (positions, width),
        "transformer.final_layernorm.weight": (width,),
        "transformer.final_layernorm.bias": (width,),
    }
    for layer in (f"transformer.layers.{index}" for index in range(config["num_layers"])):
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in linear.items()}
        shapes |= {f"{layer}.{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    return shapes


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
    prompt: str | None = None,
    input_format: str = "plain",
    gather: str | None = None,
    **tokenization: Any,
) -> Manifest:
    """`prompt` "once" or "twice" makes the prefix a soft prompt."""
    num_outputs = {"question-answering": 2, "multiple-choice": 1}.get(task, len(labels))
    problem = (decoding or {}).get("problem")
    if problem == "regression":
        num_outputs, labels = 1, ()
    if task in ("question-answering", "multiple-choice", "text-embedding"):
        labels = ()
    is_per_token = task in ("token-classification", "question-answering")
    pooler = [DenseLayer(num_outputs=spec.hidden_size, activation="tanh")] if has_pooler else []
    outputs = [] if task == "text-embedding" else [DenseLayer(num_outputs=num_outputs)]
    rules = {"stride": 8, "overlong": "window" if is_per_token else "error"} | tokenization
    deep = PrefixSpec(
        prefix_len=prefix_len,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        positions=positions,
    )
    return Manifest(
        name=name,
        task=task,
        input_format=input_format,
        labels=list(labels),
        backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
        prefix=deep
        if prompt is None
        else PromptSpec(prefix_len=prefix_len, width=spec.embedding_size or spec.hidden_size, embedding=prompt),
        head=HeadSpec(gather=gather or ("every_token" if is_per_token else "first_token"), layers=[*pooler, *outputs]),
        tokenization=TokenizationSpec(max_len=max_len, **rules),
        decoding=DecodingSpec(**(decoding or {})),
        provenance=Provenance(tool="tests", tool_version="0", method="random"),
    )


def random_row(generator: np.random.Generator, length: int, first_position: int) -> Row:
    ids = generator.integers(0, len(vocabulary()), length)
    segments = np.sort(generator.integers(0, 2, length))
    return Row(tuple(ids.tolist()), tuple(segments.tolist()), first_position)


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
