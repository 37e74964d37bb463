"""What to do where a device has too little memory: fewer tokens at once. Knows adapters and examples; no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from prefixrack.errors import InvalidRequest
from prefixrack_adapters import evaluation
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.evaluation import Evaluation, facts_of
from prefixrack_adapters.scoring import Outputs, judge
from prefixrack_adapters.training.data import Example

MAX_EVALUATION_TOKENS = 4096

T = TypeVar("T")


def evaluate(
    backbone: Backbone,
    adapter: Adapter,
    examples: Sequence[Example],
    max_tokens: int = MAX_EVALUATION_TOKENS,
    advance: evaluation.Advance | None = None,
) -> Evaluation:
    """Score an adapter by what `answer` gives. Raises InvalidRequest as that does, and for no example at all."""
    return judge(facts_of(adapter.manifest), answer(backbone, adapter, examples, max_tokens, advance), examples)


def answer(
    backbone: Backbone,
    adapter: Adapter,
    examples: Sequence[Example],
    max_tokens: int = MAX_EVALUATION_TOKENS,
    advance: evaluation.Advance | None = None,
) -> Outputs:
    """Outputs of an adapter; out of memory, anew in packs of half the tokens.

    `advance` hears of rows, those done anew too. Raises InvalidRequest where a single row is too much.
    """
    return halving(lambda tokens: evaluation.answer(backbone, adapter, examples, tokens, advance), max_tokens)


def halving(compute: Callable[[int], T], max_tokens: int) -> T:
    """What `compute` gives for packs of so many tokens or, out of memory, of half as many, and so on."""
    while max_tokens:
        try:
            return compute(max_tokens)
        except torch.OutOfMemoryError:
            max_tokens //= 2
        release()
    raise too_little("one row")


@contextmanager
def told_if_out_of_memory() -> Iterator[None]:
    """For what fewer tokens at once do not help with: the backbone, what is trained, the optimizer's numbers."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidRequest(
            f"the device has no memory for the backbone and what is kept beside it ({reason}): free some, or take "
            "another --device, --dtype bfloat16 or a smaller backbone"
        ) from None


def too_little(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"the device has no memory for {what} in one pass, which cannot be divided: lower --max-len, --prefix-len or, "
        "for embeddings, --batch-size"
    )


def release() -> None:
    """Give back what the failed pass held. Call it outside of the except clause, which keeps the tensors alive."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def random_states() -> list[Tensor]:
    """Of the CPU and of every GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def restore_random_states(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
