"""What a peer and the contest say to each other: one JSON line each way, over the peer's standard input and output.

A peer is a script in a virtual environment of its own. It reads a folder of work, says that it is ready and with which
versions, and then answers commands: the outputs of a set of rows, or the seconds that they took. Knows none of the
project's packages, and of a peer's no more than numpy and safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Outputs = NDArray[np.float32]  # [num_rows, num_labels]


@dataclass(frozen=True)
class Row:
    """One text for one adapter; the token ids are those of the text, special tokens included."""

    text: str
    token_ids: list[int]
    adapter: str


@dataclass(frozen=True)
class AdapterTensors:
    """`prefix` is [num_layers, 2, prefix_len, num_heads, head_dim]; the head is a pooler (tanh) and a classifier."""

    prefix: NDArray[np.float32]
    pooler_weight: NDArray[np.float32]
    pooler_bias: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def by_vector(self) -> NDArray[np.float32]:
        """[prefix_len, num_layers · 2 · num_heads · head_dim], as prefix tuning's libraries store it."""
        vectors = self.prefix.transpose(2, 0, 1, 3, 4)
        return np.ascontiguousarray(vectors.reshape(len(vectors), -1))


@dataclass(frozen=True)
class Work:
    """`model` is a folder with a stock model for one task: the shared backbone with a pooler and a classifier.

    `device` is where everybody computes, in torch's words; `variant` is the dtype, or a precision that the peer knows.
    """

    model: Path
    adapters: Path
    names: list[str]
    labels: list[str]
    prefix_len: int
    threads: int
    device: str
    variant: str
    sets: list[list[Row]]

    @classmethod
    def read(cls, folder: Path, variant: str) -> Work:
        fields = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        sets = [[Row(**row) for row in rows] for rows in fields.pop("sets")]
        return cls(model=folder / "model", adapters=folder / "adapters", sets=sets, variant=variant, **fields)

    def tensors(self, adapter: str) -> AdapterTensors:
        stored = load_file(self.adapters / adapter / "adapter.safetensors")
        head = [stored[f"head.{layer}.{part}"] for layer in (0, 1) for part in ("weight", "bias")]
        return AdapterTensors(stored["prefix"], *head)


class Peer(Protocol):
    def outputs(self, rows: Sequence[Row]) -> Outputs: ...


def padded(rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and attention mask [num_rows, longest], padding on the right with id 0."""
    longest = max(len(row.token_ids) for row in rows)
    ids = np.array([[*row.token_ids, *[0] * (longest - len(row.token_ids))] for row in rows])
    lengths = np.array([len(row.token_ids) for row in rows])
    return ids, (np.arange(longest) < lengths[:, None]).astype(np.int64)


def by_adapter(rows: Sequence[Row]) -> list[tuple[str, list[int]]]:
    """Indices of the rows of each adapter."""
    order = sorted(range(len(rows)), key=lambda index: rows[index].adapter)
    return [(name, list(members)) for name, members in groupby(order, key=lambda index: rows[index].adapter)]


def serve(make: Callable[[Work], Peer], *packages: str) -> None:
    """Answer the contest's commands until it closes the line. `packages` are those whose versions are told."""
    say = _take_stdout()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", default="float32")
    given = parser.parse_args()
    work = Work.read(given.folder, given.variant)
    peer = make(work)
    say({"ready": {name: version(name) for name in packages}})
    for line in sys.stdin:
        command = json.loads(line)
        rows = work.sets[command["set"]]
        say({"outputs": peer.outputs(rows).tolist()} if command["do"] == "outputs" else {"seconds": timed(peer, rows)})


def timed(peer: Peer, rows: Sequence[Row]) -> float:
    started_at = time.perf_counter()
    peer.outputs(rows)
    return time.perf_counter() - started_at


def _take_stdout() -> Callable[[dict[str, Any]], None]:
    """Standard output for the protocol alone: whatever a library prints goes to standard error."""
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        line.write(json.dumps(message) + "\n")
        line.flush()

    return say
