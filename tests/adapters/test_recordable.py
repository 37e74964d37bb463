"""What a pass may not do where it is recorded on a GPU: touch the CPU. Seen without one, on a device that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pair_by_pair import VARIANTS, write_deberta
from prefixrack_adapters.attention import AttentionCall, DistanceTerms, PackLayout
from prefixrack_adapters.families import load_family
from tiny import write_backbone

Write = Callable[[Path], Path]
NUM_TOKENS, LONGEST_ROW = 64, 40
# Those of DeBERTa that look at every row's length are launched call by call.
CALL_BY_CALL = ("v1-not-relative", "v2-not-relative", "v2-convolution")


class AnyAttention:
    """In the place of the kernels: what they make has a shape and no values."""

    name = "any"
    supports_backward = False

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        _, num_heads, num_tokens, head_dim = query.shape
        return query.new_empty(1, num_tokens, num_heads, head_dim)

    def attend_by_distance(
        self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout, terms: DistanceTerms
    ) -> Tensor | None:
        return self.attend(call, query, key, value, pack)


class OnTheCpu(TorchDispatchMode):
    """Notes every operation that reads or makes a tensor there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.is_cpu for tensor in tensors):
            self.seen.append(str(func))
        return result


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra"])
def test_a_pass_of_berts_form_stays_on_the_device(family: str, tmp_path: Path) -> None:
    assert seen_on_the_cpu(family, write_backbone(tmp_path, family)) == []


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in CALL_BY_CALL])
def test_a_pass_of_deberta_stays_on_the_device(variant: str, tmp_path: Path) -> None:
    assert seen_on_the_cpu(VARIANTS[variant][0], write_deberta(tmp_path, variant)) == []


@pytest.mark.parametrize("variant", CALL_BY_CALL)
def test_what_looks_at_every_rows_length_is_not_recorded(variant: str, tmp_path: Path) -> None:
    family = load_family(write_deberta(tmp_path, variant), VARIANTS[variant][0], torch.float32)
    assert not family.is_recordable


@torch.inference_mode()
def seen_on_the_cpu(model_type: str, folder: Path) -> list[str]:
    """By a pass like the one before it, which was there to make what is kept."""
    family = load_family(folder, model_type, torch.float32)
    family.model.requires_grad_(False).eval().to("meta")
    family.optimise_for_inference()
    assert family.is_recordable
    pack = PackLayout([LONGEST_ROW], [None], AnyAttention())
    tokens = torch.zeros(3, NUM_TOKENS, dtype=torch.int64, device="meta")

    def run() -> None:
        ids, segments, positions = tokens.unbind(0)
        family.hidden_states(family.words(ids), segments, positions, pack)

    run()
    operations = OnTheCpu()
    with operations:
        run()
    return operations.seen
