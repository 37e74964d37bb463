"""What the tasks over candidates share: one text classification for each of several answers or entities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InputFault
from prefixrack.types import Output, Overlong, Parameters
from prefixrack_adapters.formats import Candidates
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks.base import Logits, Prepared, Task
from prefixrack_adapters.tasks.text_classification import TextClassification, TextPair, merge_windows
from prefixrack_adapters.tokenizer import BackboneTokenizer


@dataclass(frozen=True, slots=True)
class CandidatePairs:
    """`names` is None for a plain input, which is one pair and is answered as such."""

    names: tuple[str, ...] | None
    pairs: tuple[TextPair, ...]


@dataclass(frozen=True, slots=True)
class PreparedCandidates(Prepared):
    """`parts[i]` has the rows of candidate i; `rows` has all of them in order."""

    names: tuple[str, ...] | None
    parts: tuple[Prepared, ...]


class CandidateClassification(Task[CandidatePairs, PreparedCandidates]):
    """A subclass says what the candidates' logits, put side by side, come to."""

    name: ClassVar[str] = TextClassification.name
    parameters: ClassVar[frozenset[str]] = frozenset({"top_k"})
    overlong_choices: ClassVar[tuple[Overlong, ...]] = TextClassification.overlong_choices

    def __init__(self, manifest: Manifest, spec: BackboneSpec, tokenizer: BackboneTokenizer) -> None:
        super().__init__(manifest, spec, tokenizer)
        self.pairs = TextClassification(manifest, spec, tokenizer)

    def parse(self, value: object) -> CandidatePairs:
        if not isinstance(value, Candidates):
            return CandidatePairs(None, (self.pairs.parse(value),))
        return CandidatePairs(value.names, tuple(self.pairs.parse(one) for one in value.inputs))

    def encode(self, inputs: Sequence[CandidatePairs]) -> Sequence[list[Any]]:
        """Every text once: the candidates of one input share a passage."""
        pairs = [pair for value in inputs for pair in value.pairs]
        texts = list(dict.fromkeys(text for pair in pairs for text in (pair.text, pair.text_pair) if text is not None))
        ids = dict(zip(texts, self.tokenizer.encode_ids(texts), strict=True))
        return [[(ids[pair.text], ids.get(pair.text_pair or "")) for pair in value.pairs] for value in inputs]

    def build(self, value: CandidatePairs, encoded: list[Any], overlong: Overlong) -> PreparedCandidates:
        parts = [self._build_part(value, index, tokens, overlong) for index, tokens in enumerate(encoded)]
        rows = tuple(row for part in parts for row in part.rows)
        return PreparedCandidates(rows, any(part.truncated for part in parts), value.names, tuple(parts))

    def _build_part(self, value: CandidatePairs, index: int, encoded: Any, overlong: Overlong) -> Prepared:
        try:
            return self.pairs.build(value.pairs[index], encoded, overlong)
        except InputFault as fault:
            if value.names is None:
                raise
            raise type(fault)(f"candidate {index}: {fault.detail}") from None

    def finish(self, prepared: PreparedCandidates, logits: Sequence[Logits], parameters: Parameters) -> Output:
        if prepared.names is None:
            return self.pairs.finish(prepared.parts[0], logits, parameters)
        of_rows = iter(logits)
        merged = np.stack([merge_windows(part, list(islice(of_rows, len(part.rows)))) for part in prepared.parts])
        common = {"truncated": prepared.truncated, "logits": merged.tolist() if parameters.logits else None}
        return self.answer(prepared.names, merged, parameters, common)

    @abstractmethod
    def answer(
        self, names: Sequence[str], logits: NDArray[Any], parameters: Parameters, common: dict[str, Any]
    ) -> Output:
        """`logits` is [num_candidates, num_labels]; `common` has the fields that every output has."""

    def plain_schema(self) -> dict[str, Any]:
        return self.pairs.plain_schema()

    def default_example(self) -> object:
        return self.pairs.default_example()
