"""Architectures: what a config.json says about shapes, positions and identity, per model family. No torch.

One entry per `model_type`; how the family computes stands under the same name in `families/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefixrack_adapters.rotary import causal_windows, rope_refusal, rotary, rotary_by_kind, windows_around

Config = Mapping[str, Any]

# Config fields that change a BERT-like encoder's outputs, with the value transformers takes where an older config
# lacks the field.
ENCODER_FIELDS: Mapping[str, Any] = {
    "model_type": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "vocab_size": None,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "embedding_size": None,
    "pad_token_id": None,
    "position_embedding_type": "absolute",
}
ENCODER_MODULES = ("embeddings.", "embeddings_project.", "encoder.")


@dataclass(frozen=True, slots=True)
class Architecture:
    """`output_fields` and `base_modules` make the fingerprint: fields of config.json with their defaults, and the
    first parts of the base model's tensor names (poolers, language-model heads and task heads are not among them).

    `ignored_fields` count as unset: this family does not derive outputs from them. `model_prefix` is what task
    checkpoints put before base-model names. `names` maps our words to the config's own where they differ; `absent`
    has, by our words, what transformers takes for a field that a config lacks. Stored tensors whose names end in
    `buffers` are no weights. `other_names` maps names that some exports give a tensor to the base model's own.
    """

    model_type: str
    model_prefix: str
    output_fields: Mapping[str, Any] = field(default_factory=lambda: ENCODER_FIELDS)
    ignored_fields: frozenset[str] = frozenset({"pad_token_id", "embedding_size"})
    base_modules: tuple[str, ...] = ENCODER_MODULES
    names: Mapping[str, str] = field(default_factory=dict)
    counts_from_pad: bool = False  # RoBERTa counts positions from pad_token_id + 1 (fairseq's convention)
    num_segments: int | None = None  # None: config's type_vocab_size
    has_one_separator: bool = False  # between the parts of a pair, whatever the tokenizer file says
    absent: Mapping[str, Any] = field(default_factory=dict)
    buffers: tuple[str, ...] = ("position_ids",)
    other_names: Mapping[str, str] = field(default_factory=dict)

    def base_name(self, name: str) -> str:
        """A stored tensor's name without what task checkpoints put before it, old LayerNorm spellings renewed."""
        base = name.removeprefix(self.model_prefix)
        base = base.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        return self.other_names.get(base, base)

    def standard(self, config: Config) -> dict[str, Any]:
        """A config in the one form that the rest of the library reads, where a family was published in several."""
        return dict(config)

    def read(self, config: Config, name: str, default: Any = None) -> Any:
        """A config field by our word for it; one that is null counts as absent."""
        value = config.get(self.names.get(name, name), self.absent.get(name))
        return default if value is None else value

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only those before it: then the last one stands for the row."""
        return False

    def refusal(self, config: Config) -> str | None:
        """The option that cannot be computed, and what is allowed; None where all can."""
        return None

    def is_base_tensor(self, name: str, config: Config) -> bool:
        """Whether a tensor, by its base-model name, takes part in every output."""
        return name.startswith(self.base_modules) and not name.endswith(self.buffers)

    def base_position(self, config: Config) -> int:
        """Position id of the first token of a row without a prefix."""
        return int(config.get("pad_token_id", 1)) + 1 if self.counts_from_pad else 0

    def fingerprint_fields(self, config: Config) -> dict[str, Any]:
        fields = {name: config.get(name, default) for name, default in self.output_fields.items()}
        return fields | {name: None for name in self.ignored_fields if name in fields}


DEBERTA_FIELDS = {name: value for name, value in ENCODER_FIELDS.items() if name != "position_embedding_type"} | {
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,
    "max_relative_positions": -1,
    "position_biased_input": True,
    "pos_att_type": None,
}
DEBERTA_V2_FIELDS = DEBERTA_FIELDS | {
    "attention_head_size": None,
    "position_buckets": -1,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
}
POSITION_TERMS = ("c2p", "p2c")


class Deberta(Architecture):
    """DeBERTa of all versions. What a file holds but the config leaves out is no part of the model."""

    def position_terms(self, config: Config) -> list[str]:
        """`pos_att_type`, which older configs join with "|"; the order changes nothing."""
        terms = self.read(config, "pos_att_type", [])
        return sorted(part.strip() for part in terms.lower().split("|")) if isinstance(terms, str) else sorted(terms)

    def fingerprint_fields(self, config: Config) -> dict[str, Any]:
        return super().fingerprint_fields(config) | {"pos_att_type": self.position_terms(config)}

    def is_base_tensor(self, name: str, config: Config) -> bool:
        if name.startswith("embeddings.position_embeddings") and not config.get("position_biased_input", True):
            return False
        if name.startswith("embeddings.token_type_embeddings") and not config.get("type_vocab_size", 0):
            return False
        return super().is_base_tensor(name, config)

    def refusal(self, config: Config) -> str | None:
        terms = self.position_terms(config)
        if not set(terms) <= set(POSITION_TERMS) or len(set(terms)) != len(terms):
            return f"pos_att_type {'|'.join(terms)!r}: each of {', '.join(POSITION_TERMS)} may stand in it once"
        if config.get("talking_head"):
            return "talking_head true: only false is supported"
        return self._width_refusal(config) if "conv_kernel_size" in self.output_fields else None

    def _width_refusal(self, config: Config) -> str | None:
        """Options of v2 under which the stock model itself has tensors that do not fit together."""
        size = self.read(config, "conv_kernel_size", 0)
        if size > 0 and size % 2 == 0:
            return f"conv_kernel_size {size}: an odd number is needed"
        width = config["hidden_size"] // config["num_attention_heads"]
        head_dim = self.read(config, "head_dim", width)
        return None if head_dim == width else f"attention_head_size {head_dim}: only {width} is supported"


DISTILBERT_FIELDS: Mapping[str, Any] = {
    "model_type": None,
    "dim": None,
    "n_layers": None,
    "n_heads": None,
    "hidden_dim": None,
    "max_position_embeddings": None,
    "vocab_size": None,
    "activation": "gelu",
}
DISTILBERT_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
ALBERT_FIELDS: Mapping[str, Any] = {
    **ENCODER_FIELDS,
    "hidden_act": "gelu_new",
    "embedding_size": 128,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}
MODERNBERT_FIELDS: Mapping[str, Any] = {
    "model_type": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": 8192,
    "vocab_size": None,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
}
MODERNBERT_THETAS = {
    "full_attention": ("global_rope_theta", 160_000.0),
    "sliding_attention": ("local_rope_theta", 10_000.0),
}
GPT2_FIELDS: Mapping[str, Any] = {
    "model_type": None,
    "n_embd": None,
    "n_layer": None,
    "n_head": None,
    "n_inner": None,
    "n_positions": None,
    "vocab_size": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
DECODER_FIELDS: dict[str, Any] = {
    "model_type": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "vocab_size": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
}
GLM_FIELDS = DECODER_FIELDS | {"rms_norm_eps": 1.5625e-07}
GLM_ABSENT = {"num_key_value_heads": 2, "head_dim": 128, "partial_rotary_factor": 0.5}


class Albert(Architecture):
    """One layer's weights serve many layers; each has a prefix of its own."""

    def refusal(self, config: Config) -> str | None:
        repeated = config.get("inner_group_num", 1)
        return None if repeated == 1 else f"inner_group_num {repeated}: only 1 is supported"


class ModernBert(Architecture):
    """Layers that see a row and layers that see a token's neighbourhood, each kind with rotary angles of its own."""

    def rotary(self, config: Config) -> dict[str, dict[str, Any]]:
        return rotary_by_kind(config, MODERNBERT_THETAS)

    def refusal(self, config: Config) -> str | None:
        refusals = map(rope_refusal, self.rotary(config).values())
        return next((refusal for refusal in refusals if refusal), None)

    def fingerprint_fields(self, config: Config) -> dict[str, Any]:
        own = {"rotary": self.rotary(config), "windows": windows_around(config)}
        return super().fingerprint_fields(config) | own


class Gpt2(Architecture):
    """A decoder with learned positions."""

    @property
    def is_causal(self) -> bool:
        return True

    def refusal(self, config: Config) -> str | None:
        """Some embedding models switch a decoder's causal mask off in the config: that is another model."""
        return None if config.get("is_causal", True) else "is_causal false: only causal decoders are supported"


class Decoder(Gpt2):
    """A decoder with rotary positions, and maybe fewer key and value heads than query heads."""

    def rotary(self, config: Config) -> dict[str, Any]:
        return rotary(config, part=self.absent.get("partial_rotary_factor", 1.0))

    def refusal(self, config: Config) -> str | None:
        return super().refusal(config) or rope_refusal(self.rotary(config))

    def fingerprint_fields(self, config: Config) -> dict[str, Any]:
        heads = self.read(config, "num_attention_heads")
        return super().fingerprint_fields(config) | {
            "num_key_value_heads": self.read(config, "num_key_value_heads", heads),
            "head_dim": self.read(config, "head_dim", config["hidden_size"] // heads),
            "rotary": self.rotary(config),
        }


class Qwen(Decoder):
    """Versions 2 and 3, whose later layers may see a window."""

    def fingerprint_fields(self, config: Config) -> dict[str, Any]:
        return super().fingerprint_fields(config) | {"windows": causal_windows(config)}


GLM_2021 = "glm-2021"  # not transformers' "glm", which is GLM-4
GLM_2021_FIELDS: Mapping[str, Any] = {
    "model_type": None,
    "hidden_size": None,
    "num_layers": None,
    "num_attention_heads": None,
    "inner_hidden_size": None,
    "max_sequence_length": None,
    "vocab_size": None,
    "layernorm_epsilon": 1e-5,
}
GLM_2021_NAMES = {"num_hidden_layers": "num_layers", "max_position_embeddings": "max_sequence_length"}


# Options of the tool under which its layers would be others, with the only value that is supported.
GLM_2021_OPTIONS: Mapping[str, Any] = {
    "layernorm_order": "pre",
    "use_bias": True,
    "use_final_layernorm": True,
    "is_decoder": False,
    "is_gated_mlp": False,
    "num_multi_query_heads": 0,
    "hidden_size_per_attention_head": None,
    "relative_encoding": False,
}
GLM_2021_BLOCKS = "mixins.block_position_embedding.block_position_embeddings.weight"
# As versions of the tool before its mixins name them, and the models on the hub.
GLM_2021_OTHER_NAMES = {
    "transformer.block_position_embeddings.weight": GLM_2021_BLOCKS,
    "word_embeddings.weight": "transformer.word_embeddings.weight",
}


class Glm2021(Architecture):
    """GLM in SwissArmyTransformer's layout, or in that of the models on the hub (THUDM/glm-2b, THUDM/glm-10b)."""

    def standard(self, config: Config) -> dict[str, Any]:
        """The hub's configs leave the first position out of `max_sequence_length`; widths of 4 times are left out."""
        uncounted = 1 if config.get("block_position_encoding") else 0
        inner = config.get("inner_hidden_size") or 4 * config["hidden_size"]
        longest = config["max_sequence_length"] + uncounted
        return {**config, "max_sequence_length": longest, "inner_hidden_size": inner}

    def refusal(self, config: Config) -> str | None:
        for name, supported in GLM_2021_OPTIONS.items():
            if config.get(name, supported) != supported:
                return f"{name} {config[name]!r}: only {supported!r} is supported"
        return None


def model_type_of(config: Config) -> str | None:
    """The key in `ARCHITECTURES`. GLM of 2021 shares its `model_type` with a newer model and is told by its layout."""
    has_blocks = config.get("block_position_embedding") or config.get("block_position_encoding")
    is_of_tool = config.get("naming") == "SwissArmyTransformer" or "model_class" in config
    return GLM_2021 if has_blocks or is_of_tool else config.get("model_type")


ROBERTA = {"model_prefix": "roberta.", "counts_from_pad": True, "ignored_fields": frozenset({"embedding_size"})}

DECODER: dict[str, Any] = {
    "model_prefix": "model.",
    "output_fields": DECODER_FIELDS,
    "base_modules": ("embed_tokens.", "layers.", "norm."),
    "num_segments": 0,
    "buffers": ("rotary_emb.inv_freq",),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    one.model_type: one
    for one in (
        Albert(
            "albert",
            "albert.",
            ALBERT_FIELDS,
            frozenset({"pad_token_id"}),
            absent={"embedding_size": 128},
        ),
        Architecture("bert", "bert."),
        Deberta("deberta", "deberta.", DEBERTA_FIELDS, frozenset({"pad_token_id"}), has_one_separator=True),
        Deberta(
            "deberta-v2",
            "deberta.",
            DEBERTA_V2_FIELDS,
            frozenset({"pad_token_id"}),
            names={"head_dim": "attention_head_size"},
            has_one_separator=True,
        ),
        Architecture(
            "distilbert",
            "distilbert.",
            DISTILBERT_FIELDS,
            base_modules=("embeddings.", "transformer."),
            names=DISTILBERT_NAMES,
            num_segments=0,
        ),
        Architecture("electra", "electra.", ignored_fields=frozenset({"pad_token_id"})),
        Decoder("glm", **(DECODER | {"output_fields": GLM_FIELDS, "absent": GLM_ABSENT})),
        Decoder("glm4", **(DECODER | {"output_fields": GLM_FIELDS, "absent": GLM_ABSENT})),
        Glm2021(
            GLM_2021,
            "glm.",
            GLM_2021_FIELDS,
            base_modules=("transformer.", "mixins.block_position_embedding."),
            names=GLM_2021_NAMES,
            num_segments=0,
            other_names=GLM_2021_OTHER_NAMES,
        ),
        Gpt2(
            "gpt2",
            "transformer.",
            GPT2_FIELDS,
            base_modules=("wte.", "wpe.", "h.", "ln_f."),
            names=GPT2_NAMES,
            num_segments=0,
            buffers=(".attn.bias", ".attn.masked_bias"),
        ),
        Decoder("llama", **DECODER),
        ModernBert(
            "modernbert",
            "model.",
            MODERNBERT_FIELDS,
            base_modules=("embeddings.", "layers.", "final_norm."),
            num_segments=0,
            absent={"max_position_embeddings": 8192},
        ),
        Qwen("qwen2", **(DECODER | {"absent": {"num_key_value_heads": 32}})),
        Qwen("qwen3", **(DECODER | {"absent": {"num_key_value_heads": 32, "head_dim": 128}})),
        Architecture("roberta", **ROBERTA),  # type: ignore[arg-type]
        Architecture("xlm-roberta", **ROBERTA),  # type: ignore[arg-type]
    )
}
