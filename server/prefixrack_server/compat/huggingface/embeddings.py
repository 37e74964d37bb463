"""The API tasks feature-extraction and sentence-similarity, by adapters for text embedding. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from prefixrack.errors import InvalidRequest
from prefixrack.types import Parameters
from prefixrack_adapters.tasks.text_embedding import unit_length
from prefixrack_server.compat.huggingface.plan import Options, Outputs, Plan, many
from prefixrack_server.envelope import parse_fields


class SimilarityOptions(Options):
    """There are none; clients send the empty object."""

    parameters: Annotated[dict[str, Any], Field(max_length=0)] = Field(default_factory=dict)


class FeatureOptions(SimilarityOptions):
    """They stand beside `inputs`, not in `parameters`. `normalize` left out: as the adapter does it."""

    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["right"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float"] | None = None


class Sentences(Options):
    model_config = ConfigDict(extra="forbid", strict=True)

    source_sentence: str
    sentences: Annotated[list[str], Field(min_length=1)]


def is_similarity(inputs: Any) -> bool:
    return isinstance(inputs, dict) and "source_sentence" in inputs


def plan_features(inputs: Any, fields: Mapping[str, Any], size: int) -> Plan:
    """One vector for each text, in a list for a single one too."""
    options = parse_fields(FeatureOptions, fields)
    if options.dimensions not in (None, size):
        raise InvalidRequest(f"dimensions is {options.dimensions}, this adapter's embeddings have {size}: leave it out")
    wanted: dict[str, Any] = {"logits": options.normalize is not None}
    if options.truncate is not None:
        wanted["overlong"] = "truncate" if options.truncate else "error"

    def vectors(outputs: Outputs) -> list[list[float]]:
        return [_vector(output, options.normalize) for output in outputs]

    return Plan(many(inputs), Parameters(**wanted), vectors)


def _vector(output: Mapping[str, Any], normalize: bool | None) -> list[float]:
    """`logits` of an embedding is the vector before it is normalised."""
    if normalize is None:
        return list(output["embedding"])
    if not normalize:
        return list(output["logits"])
    unit: list[float] = unit_length(np.array(output["logits"], dtype=np.float32)).tolist()
    return unit


def plan_similarity(inputs: Mapping[str, Any], fields: Mapping[str, Any]) -> Plan:
    """The cosine of each sentence's vector and the source's."""
    parse_fields(SimilarityOptions, fields)
    given = parse_fields(Sentences, inputs)

    def cosines(outputs: Outputs) -> list[float]:
        source, *others = (unit_length(np.array(output["embedding"], dtype=np.float32)) for output in outputs)
        return [float(source @ other) for other in others]

    return Plan([given.source_sentence, *given.sentences], Parameters(), cosines)
