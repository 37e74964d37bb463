"""Any pack against the slow obvious forward pass, row by row: the same hidden states, logits and answers.

The reference computes in float64, so that what differs is our rounding alone. Differences are relative to the output
scale: the root mean square of what an adapter puts out. (A row's own largest logit is no scale: near zero the terms of
a dot product only cancel, and nothing that computes in float32 holds 1e-5 of what remains.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prefixrack.types import Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.manifest import DenseLayer, HeadSpec
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks import build_task
from reference import ReferenceAdapter, ReferenceModel
from tiny import MAX_POSITIONS, WORDS, make_manifest, prepare_one, random_arrays, random_row, write_backbone

RELATIVE = 1e-5
POOLED = ("first_token", "last_token", "mean_tokens")
GATHERS = {
    "text-classification": POOLED,
    "token-classification": ("every_token",),
    "question-answering": ("every_token",),
    "multiple-choice": POOLED,
}
# Its heads are wide enough for the compiled attention. With larger weights attention is so steep that float32 itself,
# row by row, is 1e-4 away from what is exact.
SHAPE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "initializer_range": 0.1}
ANY_FIXTURES = (HealthCheck.function_scoped_fixture,)


class Kind(NamedTuple):
    """What adapters differ in, besides their weights. `activation` is of a dense layer before the last one, if any."""

    task: str
    prefix_len: int
    positions: str
    gather: str
    activation: str | None
    seed: int


class Twin(NamedTuple):
    """One adapter for the backbone and for the reference, and the scale of its logits."""

    adapter: Adapter
    plain: ReferenceAdapter
    first_position: int
    scale: float


class World:
    """A backbone, the reference for it, and any adapter."""

    def __init__(self, folder: Path, is_served: bool) -> None:
        self.backbone = Backbone.load(folder, device="cpu")
        if is_served:
            self.backbone.optimise_for_inference()
        self.exact = ReferenceModel(folder, torch.float64)
        self.twin = cache(self._make)

    def _make(self, kind: Kind) -> Twin:
        spec = self.backbone.spec
        manifest = make_manifest(
            spec,
            task=kind.task,
            labels=("O", "B-x", "I-x"),
            prefix_len=kind.prefix_len,
            max_len=MAX_POSITIONS,
            positions=kind.positions,
            decoding={"no_answer": bool(kind.seed % 2), "n_best": 3},
            overlong="truncate" if kind.task == "multiple-choice" else "window",
            stride=16,
        )
        manifest = manifest.model_copy(update={"head": head_of(kind, manifest.head, spec.hidden_size)})
        arrays = even_head(random_arrays(manifest, spec.hidden_size, kind.seed))
        adapter = Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32)
        tensors = {name: torch.tensor(values) for name, values in arrays.items()}
        plain = ReferenceAdapter(manifest.model_dump(mode="json"), tensors)
        first = spec.first_position(kind.prefix_len, kind.positions)
        rows = [random_row(np.random.default_rng(index), 8, first) for index in range(8)]
        return Twin(adapter, plain, first, root_mean_square(self.logits(row, plain) for row in rows))

    def logits(self, row: Row, plain: ReferenceAdapter) -> NDArray[np.float32]:
        return self.exact.logits(plain, list(row.token_ids), list(row.segment_ids), row.first_position)

    def hidden_states(self, row: Row, plain: ReferenceAdapter | None) -> NDArray[np.float32]:
        prefix = None if plain is None else plain.tensors.get("prefix")
        states = self.exact.hidden_states(list(row.token_ids), list(row.segment_ids), row.first_position, prefix)
        return states.float().numpy()


def head_of(kind: Kind, plain: HeadSpec, hidden_size: int) -> HeadSpec:
    dense = [] if kind.activation is None else [DenseLayer(num_outputs=hidden_size, activation=kind.activation)]
    return HeadSpec(gather=kind.gather, layers=[*dense, *plain.layers])


def even_head(arrays: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Weights of a head as layers start with them, so that its logits are of a usual size."""
    return {
        name: values / np.float32(values.shape[1] ** 0.5) if name.endswith(".weight") else values
        for name, values in arrays.items()
    }


def root_mean_square(parts: Iterable[NDArray[np.float32]]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([part.ravel() for part in parts]) ** 2)))


@pytest.fixture(scope="module", params=[False, True], ids=["as loaded", "as served"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(write_backbone(tmp_path_factory.mktemp("bert"), **SHAPE), request.param)


kinds = st.sampled_from(sorted(GATHERS)).flatmap(
    lambda task: st.builds(
        Kind,
        task=st.just(task),
        prefix_len=st.integers(0, 128),
        positions=st.sampled_from(["after_prefix", "unmoved"]),
        gather=st.sampled_from(GATHERS[task]),
        activation=st.sampled_from([None, "tanh", "gelu", "relu"]),
        seed=st.integers(0, 7),
    )
)
# Several rows for the same adapter, and rows for none, in any order. Longer than there is room means as long as it is.
packs = st.lists(kinds, min_size=1, max_size=5).flatmap(
    lambda some: st.lists(
        st.tuples(st.sampled_from([None, *some]), st.integers(1, MAX_POSITIONS)), min_size=1, max_size=12
    )
)


@settings(max_examples=100, suppress_health_check=ANY_FIXTURES)
@given(members=packs, seed=st.integers(0, 2**32 - 1))
def test_any_pack_equals_solo_reference_runs(world: World, members: list[tuple[Kind | None, int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    pack, plains, scales = [], [], []
    for kind, length in members:
        twin = None if kind is None else world.twin(kind)
        first = 0 if twin is None else twin.first_position
        row = random_row(generator, min(length, MAX_POSITIONS - first), first)
        pack.append(PackRow(row, None if twin is None else twin.adapter))
        plains.append(None if twin is None else twin.plain)
        scales.append(1.0 if twin is None else twin.scale)  # hidden states leave a normalisation
    prefixes = [None if entry.adapter is None else entry.adapter.layers for entry in pack]
    with torch.inference_mode():
        hidden = world.backbone.hidden_states([entry.row for entry in pack], prefixes)
    parts = hidden.split([len(entry.row) for entry in pack])
    for entry, plain, scale, states, seen in zip(
        pack, plains, scales, parts, world.backbone.compute(pack), strict=True
    ):
        wanted = world.hidden_states(entry.row, plain)
        assert_close(states.numpy(), wanted, 1.0)
        assert_close(seen, wanted if plain is None else world.logits(entry.row, plain), scale)


def assert_close(seen: NDArray[np.float32], wanted: NDArray[np.float32], scale: float) -> None:
    assert seen.shape == wanted.shape
    assert np.abs(seen - wanted).max() <= RELATIVE * scale


@pytest.mark.parametrize("prefix_len", [1, 16, 128])
def test_a_prefix_is_seen_by_every_token(world: World, prefix_len: int) -> None:
    """Or the test above would hold for prefixes that do nothing."""
    twins = [
        world.twin(Kind("token-classification", prefix_len, "unmoved", "every_token", None, seed)) for seed in (1, 2)
    ]
    row = random_row(np.random.default_rng(0), 20, 0)
    one, other = (world.hidden_states(row, twin.plain) for twin in twins)
    assert np.abs(one - other).max(axis=1).min() > 1e-2


def random_input(task: str, num_words: int, generator: np.random.Generator) -> object:
    text = " ".join(generator.choice(WORDS, num_words))
    match task:
        case "question-answering":
            return {"question": "where was ada born", "context": text}
        case "multiple-choice":
            return {"text": text, "choices": ["the cat", "a dog sat", "rain"]}
        case "token-classification":
            return {"tokens": text.split()}
    return text


# The same examples always: where the two best of many candidates are within rounding, either is the right answer, and
# now and then a new example would have such two.
@settings(max_examples=40, derandomize=True, suppress_health_check=ANY_FIXTURES)
@given(
    asked=st.lists(st.tuples(kinds, st.integers(1, 300)), min_size=1, max_size=6),
    max_rows=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_packs_give_the_references_answers(
    world: World, asked: list[tuple[Kind, int]], max_rows: int, seed: int
) -> None:
    """Member (kind, n): an input of n words, one row or more. All rows, shuffled, in packs of `max_rows`."""
    generator = np.random.default_rng(seed)
    inputs, rows, exact = [], list[PackRow](), list[NDArray[np.float32]]()
    for kind, num_words in asked:
        twin = world.twin(kind)
        task = build_task(twin.adapter.manifest, world.backbone.spec, world.backbone.tokenizer)
        one = prepare_one(task, random_input(kind.task, num_words, generator))
        inputs.append((task, one))
        rows += [PackRow(row, twin.adapter) for row in one.rows]
        exact += [world.logits(row, twin.plain) for row in one.rows]
    order = generator.permutation(len(rows)).tolist()
    mixed, alone = iter(computed_in_packs(world.backbone, rows, order, max_rows)), iter(exact)
    for task, one in inputs:
        seen, wanted = (task.finish(one, [next(logits) for _ in one.rows], Parameters()) for logits in (mixed, alone))
        assert_same_answer(seen.model_dump(), wanted.model_dump())


def computed_in_packs(
    backbone: Backbone, rows: Sequence[PackRow], order: Sequence[int], max_rows: int
) -> list[NDArray[np.float32]]:
    """Logits of every row, in the order of `rows`; computed in `order`, `max_rows` at a time."""
    done: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(order), max_rows):
        members = order[start : start + max_rows]
        done |= zip(members, backbone.compute([rows[member] for member in members]), strict=True)
    return [done[index] for index in range(len(rows))]


def assert_same_answer(seen: Any, wanted: Any) -> None:
    """Equal; scores to 1e-5."""
    if isinstance(wanted, float):
        assert seen == pytest.approx(wanted, abs=1e-5)
    elif isinstance(wanted, dict):
        assert seen.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_same_answer(seen[name], value)
    elif isinstance(wanted, list):
        assert len(seen) == len(wanted)
        for left, right in zip(seen, wanted, strict=True):
            assert_same_answer(left, right)
    else:
        assert seen == wanted
