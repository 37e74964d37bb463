"""The peers: which there are, and each as a process in the virtual environment that `peers/setup` made for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PEERS_FOLDER = Path(__file__).parent / "peers"

# What a peer computes: every adapter with its prefix and positions after it or unmoved by it; one model for one task,
# as logits or probabilities; or that model in fewer bits, which nothing else computes.
Function = Literal["after_prefix", "unmoved", "one_task", "one_task_probabilities", "one_task_quantised"]


@dataclass(frozen=True)
class PeerSpec:
    """`environment` is a name that `peers/setup` knows. One that takes texts tokenises them in its own time.

    `devices` are kinds that it is measured on: narrow dtypes are slower than float32 on CPUs without units for them.
    """

    title: str
    environment: str
    script: str
    variant: str
    function: Function
    takes_texts: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")


PEERS: Mapping[str, PeerSpec] = {
    "stock": PeerSpec("transformers, one task, padded", "transformers", "stock.py", "float32", "one_task"),
    "stock-bfloat16": PeerSpec(
        "transformers, one task, padded, bfloat16", "transformers", "stock.py", "bfloat16", "one_task"
    ),
    "past-key-values": PeerSpec(
        "transformers, a batch per adapter", "transformers", "past_key_values.py", "float32", "after_prefix"
    ),
    "past-key-values-bfloat16": PeerSpec(
        "transformers, a batch per adapter, bfloat16",
        "transformers",
        "past_key_values.py",
        "bfloat16",
        "after_prefix",
        devices=("cuda",),
    ),
    "peft": PeerSpec("PEFT, switching", "peft", "peft_switching.py", "float32", "after_prefix"),
    "peft-bfloat16": PeerSpec(
        "PEFT, switching, bfloat16", "peft", "peft_switching.py", "bfloat16", "after_prefix", devices=("cuda",)
    ),
    "adapterhub": PeerSpec("AdapterHub, BatchSplit", "adapterhub", "adapterhub.py", "float32", "unmoved"),
    "adapterhub-bfloat16": PeerSpec(
        "AdapterHub, BatchSplit, bfloat16", "adapterhub", "adapterhub.py", "bfloat16", "unmoved", devices=("cuda",)
    ),
    "onnx": PeerSpec(
        "ONNX Runtime, one task, bucketed", "onnx", "onnx_runtime.py", "float32", "one_task", devices=("cpu",)
    ),
    "onnx-int8": PeerSpec(
        "ONNX Runtime, one task, bucketed, int8",
        "onnx",
        "onnx_runtime.py",
        "int8",
        "one_task_quantised",
        devices=("cpu",),
    ),
    "infinity": PeerSpec(
        "Infinity, one task",
        "infinity",
        "infinity.py",
        "float32",
        "one_task_probabilities",
        takes_texts=True,
        devices=("cpu",),
    ),
}


def peers_on(device: str) -> list[str]:
    """Names of those that are measured on a device, such as "cuda:0"."""
    return [name for name, peer in PEERS.items() if device.partition(":")[0] in peer.devices]


def python_of(environment: str) -> Path:
    return PEERS_FOLDER / ".venv" / environment / "bin" / "python"


class PeerProcess:
    """A peer that waits for commands; see `peers/protocol.py`."""

    def __init__(self, name: str, process: subprocess.Popen[str], log_path: Path) -> None:
        self.name = name
        self._process = process
        self._log_path = log_path
        self.versions: dict[str, str] = self._hear()["ready"]

    def outputs(self, set_index: int) -> NDArray[np.float32]:
        """[num_rows, num_labels] of one of the work's sets of rows."""
        return np.array(self._ask("outputs", set_index)["outputs"], np.float32)

    def seconds(self, set_index: int) -> float:
        seconds: float = self._ask("time", set_index)["seconds"]
        return seconds

    def _ask(self, what: str, set_index: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "set": set_index}) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._log_path.read_text(errors="replace")[-2000:]
            raise SystemExit(f"the peer {self.name} ended; it said: {said}")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def running(name: str, work: Path, threads: int) -> Iterator[PeerProcess]:
    """Start a peer on a folder of work, and end it with the block."""
    spec = PEERS[name]
    command = [str(python_of(spec.environment)), str(PEERS_FOLDER / spec.script), str(work), "--variant", spec.variant]
    log_path = work / f"{name}.log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            command, env=_environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            yield PeerProcess(name, process, log_path)
        finally:
            process.terminate()


def _environment(threads: int) -> dict[str, str]:
    """Nothing of this project's is found by a peer, and nothing is asked of a model hub."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return own | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
