"""What a config says of rotary positions and attention windows, however old the config. Knows no model and no torch.

Configs of transformers 5 hold one `rope_parameters`; older ones `rope_theta`, `rope_scaling` and fields of the family's
own. Both forms of one backbone have to come out equal here, or saving it again would change its fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

# Scalings whose angles depend on a token's own position alone. "longrope" turns every token of a pack by the longest
# row in it: rows would change with their neighbours.
ROPE_TYPES = ("default", "dynamic", "linear", "llama3", "yarn")
WITH_PRETRAINED_LENGTH = ("llama3", "yarn")


def rotary(config: Config, theta: float = 10_000.0, part: float = 1.0) -> dict[str, Any]:
    """Type, base and scaling of a config with one kind of layers. `theta` and `part` stand in for fields it lacks."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    usual = {
        "rope_theta": config.get("rope_theta", theta),
        "partial_rotary_factor": config.get("partial_rotary_factor", part),
    }
    return _standard(given, usual, config)


def rotary_by_kind(config: Config, thetas: Mapping[str, tuple[str, float]]) -> dict[str, dict[str, Any]]:
    """As `rotary`, for each kind of layer: `thetas` names the older field of its base, and the value without one."""
    given, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    return {
        kind: _standard((given.get(kind) or {}) | scaling, {"rope_theta": config.get(name, theta)}, config)
        for kind, (name, theta) in thetas.items()
    }


def _standard(given: Mapping[str, Any], usual: Mapping[str, Any], config: Config) -> dict[str, Any]:
    found = {name: value for name, value in given.items() if name != "type"}
    found["rope_type"] = given.get("rope_type", given.get("type", "default"))
    if found["rope_type"] in WITH_PRETRAINED_LENGTH:
        usual = {**usual, "original_max_position_embeddings": config["max_position_embeddings"]}
    return {**usual, **found}


def rope_refusal(kinds: Mapping[str, Any]) -> str | None:
    """What cannot be computed in packs, and what is allowed; None where all can."""
    if kinds["rope_type"] in ROPE_TYPES:
        return None
    return f"rope_type {kinds['rope_type']!r}: supported are {', '.join(ROPE_TYPES)}"


def causal_windows(config: Config) -> list[int | None]:
    """Of each layer of a Qwen config: how many positions back a token sees, itself included. None: all of them."""
    num_layers = config["num_hidden_layers"]
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
    first_local = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= first_local else "full_attention" for layer in range(num_layers)
    ]
    return [window if kind == "sliding_attention" else None for kind in kinds]


def windows_around(config: Config) -> list[int | None]:
    """Of each layer of a ModernBERT config: how many positions away a token still sees. None: all of them."""
    distance = config.get("local_attention", 128) // 2
    every = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer % every else "full_attention" for layer in range(config["num_hidden_layers"])
    ]
    return [distance if kind == "sliding_attention" else None for kind in kinds]
