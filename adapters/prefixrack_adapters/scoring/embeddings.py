"""Scoring of vectors: how well cosines follow given similarities, or how well a text finds its partner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefixrack.errors import InvalidRequest
from prefixrack_adapters import metrics
from prefixrack_adapters.scoring.base import Evaluation, Facts, Outputs, has_failed
from prefixrack_adapters.scoring.numbers import by_correlation
from prefixrack_adapters.tallies import Values, means
from prefixrack_adapters.training.data import Example, Similarity

CHUNK = 512  # first texts whose cosines with all second texts are held at once


def judge_embeddings(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    """`outputs` has two vectors for each example, those of its first and of its second text."""
    vectors = _unit_vectors(outputs)
    left, right = vectors[::2], vectors[1::2]
    failed = sum(has_failed(a) or has_failed(b) for a, b in zip(outputs[::2], outputs[1::2], strict=True))
    scores = [example.target.score for example in examples if isinstance(example.target, Similarity)]
    known = [score for score in scores if score is not None]
    if known and len(known) != len(examples):
        raise InvalidRequest(
            f"{len(known)} of {len(examples)} pairs have a score: either all of a file's have one, or none"
        )
    if known:
        return by_correlation((left * right).sum(axis=1).tolist(), known, failed)
    reciprocal = 1.0 / partner_ranks(left, right, [str(example.input[1]) for example in examples])
    is_first = reciprocal == 1.0
    columns = {"mrr": reciprocal, "recall_at_1": is_first}
    return Evaluation(
        main=metrics.MAIN_METRIC["retrieval"],
        scores={name: float(values.mean()) for name, values in columns.items()},
        num_examples=len(examples),
        num_failed=failed,
        tally=means(columns),
        is_right=is_first,
    )


def _unit_vectors(outputs: Sequence[Any]) -> Values:
    """[num, width], of length 1; zeros for an output that failed: it is like nothing."""
    width = next((len(output.embedding) for output in outputs if not has_failed(output)), 1)
    vectors = np.array([[0.0] * width if has_failed(output) else output.embedding for output in outputs])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))


def partner_ranks(left: Values, right: Values, seconds: Sequence[str]) -> Values:
    """The place of each first text's partner among the different second texts, from 1; infinite where a text failed.

    A text that is exactly as near stands before the partner, so that equal vectors for all texts win nothing.
    """
    first_of = {text: index for index, text in reversed(list(enumerate(seconds)))}
    different = np.array(sorted(first_of.values()))
    partner = np.searchsorted(different, [first_of[text] for text in seconds])
    pool = right[different]
    is_sound = [bool(a.any() and b.any()) for a, b in zip(left, right, strict=True)]
    ranks = np.full(len(left), np.inf)
    for start in range(0, len(left), CHUNK):
        chunk = np.array([row for row in range(start, min(start + CHUNK, len(left))) if is_sound[row]], dtype=np.intp)
        cosines = np.where(pool.any(axis=1), left[chunk] @ pool.T, -np.inf)
        own = cosines[np.arange(len(chunk)), partner[chunk]]
        ranks[chunk] = (cosines >= own[:, None]).sum(axis=1)
    return ranks
