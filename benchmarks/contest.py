"""Prefixrack against its peers, each in a process and a virtual environment of its own, all taking turns.

Prints one JSON line; see README.md here. Outputs are compared before anything is timed, wherever a peer computes what
we compute too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from contest_work import ContestWork, Kind, write_work
from engine_rounds import EngineRounds
from equality import check_answers, difference
from options import Backbone as BackboneOption
from options import Commit, Rounds, Threads
from peer_process import PEERS, Function, PeerProcess, peers_on, python_of, running
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.devices import INT8, resolve_device
from stand import Stand, stand
from turns import Contestant, Spread, Turns, stderr, take_turns
from workload import Request, make_rows

WARM_ROUNDS_PER_SET = 2
FROM_TEXTS = ", from texts"
# Of float32 outputs, relative to the largest: other kernels, other fusions, other orders of summation.
TOLERANCE = 1e-4
TOLERANCE_BFLOAT16 = 5e-2
TOLERANCE_INT8 = 2e-1  # of ours: it computes something else, but nothing far from it
KIND_OF: Mapping[Function, Kind] = {
    "after_prefix": "after_prefix",
    "unmoved": "unmoved",
    "one_task": "one_task",
    "one_task_probabilities": "one_task",
    "one_task_quantised": "one_task",
}


@dataclass(frozen=True)
class Setup:
    num_adapters: int
    rows: int
    num_sets: int
    prefix_len: int
    rounds: int


def main(
    without: Annotated[list[str] | None, typer.Option(help=f"Leave out, of {', '.join(PEERS)}.")] = None,
    rows: Annotated[int, typer.Option(help="In a set, which is computed at once.")] = 32,
    num_adapters: int = 32,
    num_sets: Annotated[int, typer.Option(help="Other texts from round to round, as many rounds long.")] = 4,
    prefix_len: int = 16,
    dtype: Annotated[list[str] | None, typer.Option(help="Of ours. [default: float32, bfloat16]")] = None,
    device: str = "cpu",
    threads: Threads = None,
    rounds: Rounds = 12,
    seed: int = 0,
    backbone: BackboneOption = "minilm",
    commit: Commit = None,
) -> None:
    """Compare outputs, then time rounds of everybody in turn."""
    device = resolve_device(device)
    peers = [name for name in peers_on(device) if name not in (without or ())]
    check_environments(peers)
    setup = Setup(num_adapters, rows, num_sets, prefix_len, rounds)
    with stand(backbone, device=device, threads=threads, seed=seed, commit=commit) as here:
        run(here, setup, peers, dtype or ["float32", "bfloat16"])


def check_environments(peers: Sequence[str]) -> None:
    missing = sorted({PEERS[name].environment for name in peers if not python_of(PEERS[name].environment).is_file()})
    if missing:
        raise SystemExit(
            f"no virtual environment for {', '.join(missing)}: run benchmarks/peers/setup, or leave out with --without"
        )


def run(here: Stand, setup: Setup, names: Sequence[str], dtypes: Sequence[str]) -> None:
    work = write_work(here, setup.num_adapters, setup.rows, setup.num_sets, setup.prefix_len)
    ours = {dtype: Ours.load(here, dtype, work) for dtype in dtypes}
    with ExitStack() as stack:
        peers = started(names, work.folder, here.threads, stack, together=here.backbone.is_asynchronous)
        for one in ours.values():
            stack.callback(one.rounds.stop)
        differences = compare(here, work, ours, peers)
        contestants = contestants_of(setup.num_sets, ours, peers)
        turns = take_turns(contestants, setup.rounds, WARM_ROUNDS_PER_SET * setup.num_sets)
    here.emit("contest", asdict(setup) | {"dtype": list(dtypes)}, result_of(setup, turns, ours, peers, differences))
    for ratio, spread in ratios(turns, ours, peers).items():
        stderr.print(f"{ratio}: {spread} ×")


def started(
    names: Sequence[str], folder: Path, threads: int, stack: ExitStack, *, together: bool
) -> dict[str, PeerProcess]:
    """Peers that are ready. One after the other on a CPU, where ONNX Runtime times batches as it starts; together on a
    GPU, whose machine is there for minutes only."""
    with ThreadPoolExecutor(max(1, len(names)) if together else 1) as starters:
        peers = starters.map(lambda name: stack.enter_context(running(name, folder, threads)), names)
        return dict(zip(names, peers, strict=True))


@dataclass(frozen=True)
class Ours:
    """The engine in this process in one dtype."""

    backbone: Backbone
    rounds: EngineRounds
    sets: Mapping[Kind, list[list[Request]]]

    @classmethod
    def load(cls, here: Stand, dtype: str, work: ContestWork) -> Ours:
        backbone = here.backbone if dtype == here.dtype else Backbone.load(here.folder, here.backbone.device, dtype)
        if backbone is not here.backbone:
            backbone.optimise_for_inference()
        return cls(backbone, EngineRounds(backbone, work.adapters, here.threads), work.sets)

    def logits(self, kind: Kind) -> NDArray[np.float32]:
        return np.concatenate([self.rounds.logits(requests) for requests in self.sets[kind]])

    def seconds(self, index: int) -> float:
        return self.rounds.seconds(self._requests(index))

    def seconds_from_texts(self, index: int) -> float:
        """Tokenising included."""
        requests = self._requests(index)
        started_at = time.perf_counter()
        manifest, texts = requests[0].adapter.manifest, [request.text for request in requests]
        rows = make_rows(texts, manifest, self.backbone.spec, self.backbone.tokenizer)
        self.rounds.run([replace(request, row=row) for request, row in zip(requests, rows, strict=True)])
        return time.perf_counter() - started_at

    def _requests(self, index: int) -> list[Request]:
        sets = self.sets["after_prefix"]
        return sets[index % len(sets)]


def compare(
    here: Stand, work: ContestWork, ours: Mapping[str, Ours], peers: Mapping[str, PeerProcess]
) -> dict[str, float]:
    """Largest differences from our float32 outputs, relative to the largest. Ends the run where one is too large."""
    reference = ours.get("float32") or Ours.load(here, "float32", work)
    expected = {kind: reference.logits(kind) for kind in work.sets}
    for kind, sets in work.sets.items():
        check_answers(reference.backbone, sets[0], expected[kind][: len(sets[0])])
    found = {dtype: difference(one.logits("after_prefix"), expected["after_prefix"]) for dtype, one in ours.items()}
    for name, peer in peers.items():
        outputs = np.concatenate([peer.outputs(index) for index in range(len(work.sets["one_task"]))])
        found[name] = difference(outputs, as_computed(PEERS[name].function, expected))
    for name, seen in found.items():
        check_difference(name, seen)
    return {name: float(f"{seen:.1e}") for name, seen in found.items()}


def as_computed(function: Function, logits: Mapping[Kind, NDArray[np.float32]]) -> NDArray[np.float32]:
    expected = logits[KIND_OF[function]]
    if function != "one_task_probabilities":
        return expected
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def check_difference(name: str, seen: float) -> None:
    """What a peer quantised computes something else; its difference is reported and nothing more."""
    if name in PEERS and PEERS[name].function == "one_task_quantised":
        return
    allowed = allowed_difference(name)
    if not seen <= allowed:
        raise SystemExit(f"outputs of {name} differ from ours in float32 by {seen:.1e}, allowed is {allowed:.0e}")


def allowed_difference(name: str) -> float:
    if name == INT8:
        return TOLERANCE_INT8
    is_narrow = "bfloat16" in name or name not in ("float32", *PEERS)
    return TOLERANCE_BFLOAT16 if is_narrow else TOLERANCE


def contestants_of(num_sets: int, ours: Mapping[str, Ours], peers: Mapping[str, PeerProcess]) -> dict[str, Contestant]:
    def of_peer(peer: PeerProcess) -> Contestant:
        return lambda index: peer.seconds(index % num_sets)

    from_rows = {dtype: one.seconds for dtype, one in ours.items()}
    from_texts = {f"{dtype}{FROM_TEXTS}": one.seconds_from_texts for dtype, one in ours.items()}
    everybody = from_rows | from_texts | {name: of_peer(peer) for name, peer in peers.items()}
    return {name: at_work(contestant) for name, contestant in everybody.items()}


def at_work(contestant: Contestant) -> Contestant:
    """A round that counts follows one that does not: seconds after its last turn, with others' data in the caches and
    cores that slept, whoever is fast is slowed down most."""

    def seconds(index: int) -> float:
        contestant(index)
        return contestant(index)

    return seconds


def ratios(turns: Turns, dtypes: Iterable[str], peers: Iterable[str]) -> dict[str, Spread]:
    """Ours to each peer's, from texts where the peer takes those."""
    return {
        f"{dtype} / {name}": turns.speed(f"{dtype}{FROM_TEXTS}" if PEERS[name].takes_texts else dtype, name)
        for name in peers
        for dtype in dtypes
    }


def result_of(
    setup: Setup,
    turns: Turns,
    ours: Mapping[str, Ours],
    peers: Mapping[str, PeerProcess],
    differences: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "rows_per_s": {name: asdict(turns.per_s(name, setup.rows)) for name in turns.seconds},
        "speed": {ratio: asdict(spread) for ratio, spread in ratios(turns, ours, peers).items()},
        "difference": dict(differences),
        "versions": {name: peer.versions for name, peer in peers.items()},
    }


if __name__ == "__main__":
    typer.run(main)
